"""The start of the main job: seconds to its first step, its peak memory, and the seconds of a short run."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Start(NamedTuple):
    """Seconds to the first logged row, and peak memory of the process in megabytes."""

    seconds: float
    megabytes: float


def measure(*flags: str) -> Start:
    """Run the main job for 20 steps, with W&B offline, logging each step."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        options = f"--run.dir {run} --run.wandb offline --recipe.steps 20 --recipe.log-every 1".split()
        command = [sys.executable, "-m", "experiments.joint", *options, *flags]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (run / "history.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        seconds, megabytes = time.perf_counter() - start, 0.0
        while process.poll() is None:
            megabytes = peak_megabytes(process.pid) or megabytes
            time.sleep(0.02)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        return Start(seconds, megabytes)


class Short(NamedTuple):
    """Seconds of a run of 10 steps, from command to prompt, and of a process that imports torch and wandb."""

    run: float
    imports: float


def short_run(*flags: str) -> Short:
    """Run the main job for 10 steps, with W&B offline, and import its two largest packages."""
    with tempfile.TemporaryDirectory() as folder:
        options = f"--run.dir {Path(folder, 'run')} --run.wandb offline --recipe.steps 10".split()
        run = _seconds([sys.executable, "-m", "experiments.joint", *options, *flags])
    return Short(run, _seconds([sys.executable, "-c", "import torch, wandb"]))


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def peak_megabytes(process: int | str) -> float:
    """Return the peak resident memory of a process; 0 where the system does not tell, or the process has ended.

    VmHWM of Linux counts from exec; `resource` starts from the peak of the parent process.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000
