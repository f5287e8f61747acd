"""Faults of a run's folder or data end in one clear line, and lose no more than the work since the last state."""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ae import Autoencoder, Batch, DivergedError, InputError, Joint, Loss, Run, RunConfig, Splits, Streamed, fit
from ae.utils.errors import StorageError
from tests.training.test_fit import QUICK, joint, open_run


class Fault:
    """Objective that calls `cause` at a step of training."""

    def __init__(self, step: int, cause: Callable[[], object]) -> None:
        self.step, self.cause = step, cause

    def __call__(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        if step == self.step and model.training:
            self.cause()
        return Joint()(model, batch, step)


@contextlib.contextmanager
def small_disk() -> Iterator[Callable[[], None]]:
    """Yield a function that limits every file to 600 bytes, which acts like a full disk on this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_fit_on_full_disk_keeps_last_state(digits: Splits, tmp_path: Path) -> None:
    with open_run(tmp_path / "whole") as run:
        fit(joint(), Joint(), digits, QUICK, run)
    message = r"can't write in .*broken: File too large; what it holds is whole: continue with --run.resume .*broken"
    with small_disk() as fill, pytest.raises(StorageError, match=message), open_run(tmp_path / "broken") as run:
        fit(joint(), Fault(7, fill), digits, QUICK, run)
    assert torch.load(tmp_path / "broken/state.pt", weights_only=True)["position"]["step"] == 5
    assert not list((tmp_path / "broken").glob("*.tmp"))
    with open_run(tmp_path / "broken", resume=True) as run:
        fit(joint(seed=5), Joint(), digits, QUICK, run)
    for name in ("model.safetensors", "best.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


@pytest.mark.slow
def test_fit_on_full_file_system_resumes_later(digits: Splits, tmp_path: Path) -> None:
    disk, ballast = tmp_path / "disk", tmp_path / "disk/ballast"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("may not mount a file system")

    def fill() -> None:
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1000))

    try:
        with open_run(tmp_path / "whole") as run:
            fit(joint(), Joint(), digits, QUICK, run)
        with pytest.raises(StorageError, match="No space left on device"), open_run(disk / "run") as run:
            fit(joint(), Fault(7, fill), digits, QUICK, run)
        ballast.unlink()
        with open_run(disk / "run", resume=True) as run:
            fit(joint(seed=5), Joint(), digits, QUICK, run)
        assert (tmp_path / "whole/model.safetensors").read_bytes() == (disk / "run/model.safetensors").read_bytes()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_fit_reports_folder_removed_during_run(digits: Splits, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    message = r"can't write in .*run: No such file or directory$"
    with pytest.raises(StorageError, match=message), open_run(folder) as run:
        fit(joint(), Fault(7, lambda: shutil.rmtree(folder)), digits, QUICK, run)


def test_fit_resumes_from_previous_state_if_state_is_broken(
    digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path / "whole") as run:
        fit(joint(), Joint(), digits, QUICK, run)
    with contextlib.suppress(KeyboardInterrupt), open_run(tmp_path / "broken") as run:
        fit(joint(), Fault(12, lambda: os.kill(os.getpid(), 2)), digits, QUICK, run)
    state = tmp_path / "broken/state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with open_run(tmp_path / "broken", resume=True) as run:
        fit(joint(seed=5), Joint(), digits, QUICK, run)
    assert "state.prev.pt" in capsys.readouterr().err
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "broken/model.safetensors").read_bytes()


def test_fit_rejects_nan_in_data(tmp_path: Path) -> None:
    class Images:
        def __len__(self) -> int:
            return 40

        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            image = torch.rand(1, 28, 28)
            if i == 30:
                image[0, 3, 3] = torch.nan
            return image, i % 10

    data = Splits(Streamed.of(Images(), tuple("0123456789"), workers=0))
    with pytest.raises(InputError, match=r"item 30 must lie in \[0, 1\], got nan"), open_run(tmp_path / "run") as run:
        fit(joint(), Joint(), data, QUICK.__class__(epochs=1, batch_size=10, log_every=1), run)


def test_fit_diverges_on_nan_of_custom_corruption(digits: Splits, tmp_path: Path) -> None:
    def blank(images: Tensor) -> tuple[Tensor, None]:
        return images * torch.nan, None

    with pytest.raises(DivergedError, match=r"mse became NaN or infinite at step 0"), open_run(tmp_path / "run") as run:
        fit(joint(), Joint(corruption=blank), digits, QUICK, run)


def test_fit_resumes_in_path_with_spaces_and_unicode(digits: Splits, tmp_path: Path) -> None:
    folder = tmp_path / "mein Lauf/数字 ñ"
    with contextlib.suppress(KeyboardInterrupt), open_run(folder) as run:
        fit(joint(), Fault(7, lambda: os.kill(os.getpid(), 2)), digits, QUICK, run)
    with open_run(folder, resume=True) as run:
        fit(joint(seed=5), Joint(), digits, QUICK, run)
    with open_run(tmp_path / "whole") as run:
        fit(joint(), Joint(), digits, QUICK, run)
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_run_rejects_folder_that_is_open(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        run.log({"train/loss": 1.0}, 1, 0.1)
        with pytest.raises(InputError, match="is open already"):
            Run("test", RunConfig(resume=tmp_path / "run", wandb="disabled"))
