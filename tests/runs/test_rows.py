from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ae import InputError, Run, RunConfig


@pytest.mark.usefixtures("unhooked")
def test_log_accepts_numbers_of_numpy_and_tensors(tmp_path: Path) -> None:
    with Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled")) as run:
        values = {"a": np.float32(0.5), "b": np.int64(3), "c": torch.tensor(2.5), "d": np.array(4.0), "e": True}
        run.log(values, np.int64(7), np.float64(0.5))  # type: ignore[arg-type]
    assert run.history() == [{"step": 7, "epoch": 0.5, "a": 0.5, "b": 3, "c": 2.5, "d": 4.0, "e": 1}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"loss": "0.5"}, "loss must be a number to be logged, got '0.5'"),
        ({"loss": None}, "loss must be a number to be logged, got None"),
        ({"loss": np.zeros(3)}, r"loss must be a number to be logged, got ndarray \[3\]"),
        ({"loss": torch.zeros(2, 2)}, r"loss must be a number to be logged, got Tensor \[2, 2\]"),
        ({"loss": torch.zeros((), device="meta")}, r"loss must be a number to be logged, got tensor"),
        ({"loss": 10**400}, "loss must be a number that a float can hold"),
        ({"step": 3}, "'step' can't be logged as a key"),
        ({"_timestamp": 3}, "'_timestamp' can't be logged as a key"),
        ({3: 3}, "3 can't be logged as a key"),
    ],
)
@pytest.mark.usefixtures("unhooked")
def test_log_rejects_other_values_and_reserved_keys(tmp_path: Path, row: dict[str, float], message: str) -> None:
    run = Run("joint", RunConfig(dir=tmp_path / "run", wandb="disabled"))
    with pytest.raises(InputError, match=message):
        run.log(row, 1, 0.1)
    with pytest.raises(InputError, match="step must be 0 or more"):
        run.log({}, -1, 0.1)
    with pytest.raises(InputError, match="a picture's name must be text"):
        run.log({}, 1, 0.1, {"a/b": Image.new("L", (1, 1))})
    run.finish()
    assert run.history() == []
