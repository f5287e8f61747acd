"""How long until the main job's first step is done, from the start of the process, and how much memory it takes."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Start(NamedTuple):
    """Seconds to the first row, and the peak memory of the process in megabytes."""

    seconds: float
    megabytes: float


def measure(*flags: str) -> Start:
    """Start the main job for 20 steps, W&B offline, a row at each."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        options = f"--run.dir {run} --run.wandb offline --recipe.steps 20 --recipe.log-every 1".split()
        command = [sys.executable, "-m", "experiments.joint", *options, *flags]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (run / "history.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        seconds, megabytes = time.perf_counter() - began, 0.0
        while process.poll() is None:
            megabytes = peak_megabytes(process.pid) or megabytes
            time.sleep(0.02)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        return Start(seconds, megabytes)


def peak_megabytes(process: int | str) -> float:
    """The most memory that a process has held so far; 0 where the system does not say, or the process has ended.

    Linux's own figure for the program that runs: what `resource` tells begins at that of the program that started it.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000
