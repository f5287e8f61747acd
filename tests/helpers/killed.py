"""The main job, killed by SIGKILL at the N-th call of a function: `python -m tests.helpers.killed MOMENT N FLAGS...`"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import ImageFile

from ae.cli import cli
from ae.evaluation import evaluate
from experiments import joint

MOMENTS: dict[str, tuple[Any, str]] = {
    "a step": (torch.optim.SGD, "step"),
    "a gradient": (torch.Tensor, "backward"),
    "an evaluation": (evaluate, "per_example"),
    "a write": (os, "fsync"),
    "a rename": (Path, "replace"),
    "an image": (ImageFile.ImageFile, "load"),
}


def main() -> None:
    """Run the job until the kill."""
    moment, count = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:3]
    owner, name = MOMENTS[moment]
    function = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(owner, name, counted)
    cli(joint.main)


if __name__ == "__main__":
    main()
