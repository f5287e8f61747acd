"""How long until the main job's first step is done, from the start of the process, and how much memory it takes."""

import os
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
        seconds = time.perf_counter() - began
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        return Start(seconds, usage.ru_maxrss / 1000)
