"""Commands for people without a checkout: `ae compare`, `ae encode`, ...; also `python -m ae compare`."""

import importlib
import sys
from pathlib import Path

from ae.cli import cli
from ae.utils.validation import nearest

COMMANDS = {
    "compare": "which of these runs is best, and why?",
    "encode": "codes, predictions and reconstructions of any images",
    "probe": "linear probe, nearest neighbours and k-means on frozen codes",
    "sample": "images sampled from a generative run",
    "push": "push a model to the Hugging Face Hub, with a card",
    "upload": "upload what W&B's server lacks of an ended run",
}


def main() -> None:
    """Run the command that the first argument names."""
    name, arguments = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in ("--help", "-h"):
        print(_help())
    elif name == "--version":
        print(importlib.import_module("ae").__version__)
    elif name in COMMANDS:
        sys.argv = [f"{Path(sys.argv[0]).name} {name}", *arguments]
        cli(importlib.import_module(f"ae.commands.{name}").main)
    else:
        known = nearest(name, list(COMMANDS)) or f": it is one of {', '.join(COMMANDS)}"
        print(f"error: no command {name}{known}", file=sys.stderr)
        sys.exit(2)


def _help() -> str:
    width = max(len(name) for name in COMMANDS)
    lines = [f"  ae {name:{width}}  {description}" for name, description in COMMANDS.items()]
    return "\n".join(["usage: ae COMMAND ...; ae COMMAND --help lists its options", "", *lines])
