from dataclasses import replace
from pathlib import Path

from ae import ImageSet, RunConfig, Splits
from tests.tracked import job


def test_the_test_set_is_read_once_after_the_training(digits: Splits, tmp_path: Path) -> None:
    reads: list[bool] = []

    def test() -> ImageSet:
        reads.append((tmp_path / "run/model.safetensors").exists())
        assert digits.test is not None
        return digits.test()

    job(replace(digits, test=test), RunConfig(dir=tmp_path / "run", wandb="disabled"))
    assert reads == [True]
