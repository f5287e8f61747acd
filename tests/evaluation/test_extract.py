"""Files of codes, predictions, labels and reconstructions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ae import Autoencoder, Classifier, ConvEncoder, Data, DeconvDecoder, InputError, RunConfig, Splits, load
from ae.evaluation.extract import encode
from experiments import encode as experiment
from experiments import joint, probe
from tests.experiments.test_experiments import short
from tests.helpers.tracked import job, main_job


def model() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(ConvEncoder(1, (4, 8)), DeconvDecoder(1, (8, 4)), heads={"digit": Classifier((8, 7, 7))}).eval()


def read(folder: Path, format: Any) -> dict[str, torch.Tensor]:
    if format == "safetensors":
        return load_file(folder / "encoded.safetensors")
    return {path.stem: torch.from_numpy(np.load(path)) for path in folder.glob("*.npy")}


@pytest.mark.parametrize("format", ["npy", "safetensors"])
@pytest.mark.parametrize("batch_size", [50, 1000])
def test_encode_writes_the_models_outputs_in_order(
    digits: Splits, tmp_path: Path, format: Any, batch_size: int
) -> None:
    assert digits.validation is not None
    files = encode(model(), digits.validation, tmp_path, format=format, batch_size=batch_size)
    tensors = read(tmp_path, format)
    assert sorted(files) == sorted(tmp_path.iterdir())
    batch = digits.validation.batch(slice(None))
    out = model()(batch.images)
    assert tensors.keys() == {"codes", "predictions.digit", "labels", "reconstructions"}
    torch.testing.assert_close(tensors["codes"], out.code.mean)
    torch.testing.assert_close(tensors["predictions.digit"], out.predictions["digit"])
    torch.testing.assert_close(tensors["reconstructions"], out.reconstruction)
    assert torch.equal(tensors["labels"], batch.labels)


def test_encode_writes_only_the_parts_asked_for(digits: Splits, tmp_path: Path) -> None:
    assert digits.validation is not None
    encode(model(), digits.validation, tmp_path, parts=("labels",))
    assert read(tmp_path, "safetensors").keys() == {"labels"}
    cnn = Autoencoder(ConvEncoder(1, (4, 8)))
    with pytest.raises(InputError, match="no reconstructions: the model has no decoder"):
        encode(cnn, digits.validation, tmp_path)


@pytest.mark.slow
def test_encode_experiment_takes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joint.main(short(joint.Config(), tmp_path / "run"))
    experiment.main(experiment.Config(str(tmp_path / "run"), tmp_path / "out", split="validation", parts=("codes",)))
    assert "64 images in" in capsys.readouterr().out
    data = replace(Data("mnist"), limit=256, validation=64).load()
    assert data.validation is not None
    expected = load(tmp_path / "run").encode(data.validation.batch(slice(None)).images).mean
    torch.testing.assert_close(read(tmp_path / "out", "safetensors")["codes"], expected)


def test_encode_experiment_takes_a_folder_of_images(
    digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job(digits, RunConfig(dir=tmp_path / "run", wandb="disabled"))
    for name, size in (("b.png", (28, 28)), ("a/c.png", (60, 40)), ("a/d.jpg", (9, 30))):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (200, 200, 200)).save(tmp_path / "pictures" / name)
    config = experiment.Config(str(tmp_path / "run"), tmp_path / "out", images=tmp_path / "pictures", format="npy")
    experiment.main(config)
    tensors = read(tmp_path / "out", "npy")
    assert json.loads((tmp_path / "out/names.json").read_text()) == ["a/c.png", "a/d.jpg", "b.png"]
    assert tensors["labels"].tolist() == [-1, -1, -1]
    expected = load(tmp_path / "run").encode(torch.full((1, 1, 28, 28), 200 / 255)).mean
    torch.testing.assert_close(tensors["codes"][[0, 2]], expected.expand(2, -1, -1, -1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no images in .*empty"):
        experiment.main(replace(config, images=tmp_path / "empty"))
    with pytest.raises(InputError, match="nothing to write"):
        experiment.main(replace(config, parts=()))


@pytest.mark.slow
def test_probe_experiment_takes_several_runs(
    digits: Splits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        main_job(digits, tmp_path / f"run{seed}", joint.Model((4, 8), latent=8), seed)
    runs = (tmp_path / "run0", tmp_path / "run1")
    run_config = RunConfig(dir=tmp_path / "probed", wandb="disabled")
    few = Data("mnist", limit=256, validation=64)
    probe.main(probe.Config(runs, few, labels=(20,), repeats=2, map=50, run=run_config))
    summary = json.loads((tmp_path / "probed/summary.json").read_text())
    assert {"probe/linear/accuracy", "probe/linear/accuracy/std", "probe/linear/accuracy/20", "probe/kmeans/nmi"} <= (
        summary.keys()
    )
    output = capsys.readouterr().out
    assert "linear/accuracy/20" in output
    assert (tmp_path / "probed/code.png").exists()
    with pytest.raises(InputError, match="no run to probe"):
        probe.main(probe.Config((), run=RunConfig(wandb="disabled")))
