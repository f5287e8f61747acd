"""Sweep files over the experiment of `tests.helpers.hill`."""

from pathlib import Path
from typing import Any

import yaml

HILL: dict[str, Any] = {
    "program": "tests/helpers/hill.py",
    "method": "grid",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"hill.x": {"values": [0.0, 1.0, 3.0]}},
}


def write_sweep(path: Path, **changes: Any) -> Path:
    """Write the sweep file with some of its keys changed."""
    path.write_text(yaml.safe_dump({**HILL, **changes}, sort_keys=False))
    return path
