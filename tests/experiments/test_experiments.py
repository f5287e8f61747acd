"""Experiments, end to end, for a few steps."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ae import AdversarialConfig, Data, Generation, Joint, RunConfig, Splits, TeacherConfig, load, load_weights, sample
from ae.cli import cli
from ae.evaluation.sampling import generated
from ae.weights import load_prior
from experiments import (
    aae,
    classify,
    denoise,
    gan,
    iwae,
    joint,
    ladder,
    mae,
    masked,
    reconstruct,
    rows,
    segment,
    semi,
    sparse,
    streaming,
    tracking_cost,
    vae,
    vqgan,
    vqvae,
    wae,
)
from tests.helpers import ROOT
from tests.helpers.held import held
from tests.helpers.tiers import slow

EXPERIMENTS = [joint, classify, reconstruct]


def short(config: Any, folder: Path, wandb: Any = "disabled") -> Any:
    """Shorten an experiment to 4 steps on 256 digits, with two validations on 64 digits."""
    recipe = replace(config.recipe, steps=4, evaluate_every=2, log_every=1)
    data = replace(config.data, limit=256, validation=64)
    return replace(config, data=data, recipe=recipe, run=RunConfig(dir=folder, wandb=wandb))


def run(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_main_writes_a_complete_run(experiment: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    experiment.main(short(experiment.Config(), folder))
    summary = json.loads((folder / "summary.json").read_text())
    has_decoder, has_head = experiment is not classify, experiment is not reconstruct
    assert {"seconds", "images_per_second", "parameters", "code_size", "versions", "commit"} <= set(summary)
    assert summary["code_size"] == 3136
    assert ("test/mse" in summary) == ("test/psnr" in summary) == ("val/mse" in summary) == has_decoder
    assert ("test/accuracy" in summary) == ("test/accuracy/7" in summary) == has_head
    files = {"config.json", "history.jsonl", "model.safetensors", "best.safetensors", "state.pt", "state.prev.pt"}
    assert {file.name for file in folder.iterdir()} == files | {".lock", "summary.json", "code.png", "tables"} | (
        {"reconstructions.png", "pictures"} if has_decoder else set()
    )
    shown = capsys.readouterr()
    assert str(folder) in shown.out
    assert "step 4/4" in shown.err
    if has_decoder:
        with Image.open(folder / "reconstructions.png") as picture:
            assert picture.width > 600


FRECHET = {"test/frechet/test_digits", "test/frechet/classifier", "test/frechet/classifier_accuracy"}
FROM_PRIOR = FRECHET | {"test/frechet/prior", "test/frechet/mixture"}
RESTORED = {f"{split}/{name}/mse" for split in ("val", "test") for name in ("restored", "corrupted", "mean_image")}
GALLERY = {"samples-prior", "samples-mixture", "interpolations", "traversals"}


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize(
    ("experiment", "code_size", "logged", "summarised", "pictures"),
    [
        (denoise, 3136, "mse", RESTORED, {"restorations"}),
        (masked, 128, "mse", RESTORED, {"restorations"}),
        (sparse, 512, "used", set(), set()),
        (vae, 16, "active_units", FROM_PRIOR | {"test/log_likelihood", "test/log_likelihood_error"}, GALLERY),
        slow(iwae, 16, "iwae", FROM_PRIOR | {"test/log_likelihood", "test/log_likelihood_error"}, GALLERY),
        slow(wae, 8, "mmd", FROM_PRIOR, GALLERY),
        (aae, 8, "discriminator", FROM_PRIOR, GALLERY),
        (
            vqvae,
            49,
            "perplexity",
            FRECHET | {"val/prior/nats", "test/prior/nats", "test/frechet/prior"},
            {"samples-prior"},
        ),
    ],
)
def test_main_logs_metrics_of_codes_and_losses(
    experiment: Any,
    code_size: int,
    logged: str,
    summarised: set[str],
    pictures: set[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = short(experiment.Config(), tmp_path / "run")
    if experiment in (vae, iwae):
        config = replace(config, generation=Generation(likelihood_samples=3, likelihood_images=20))
    if experiment is vqvae:
        config = replace(config, prior_steps=2)
    experiment.main(config)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["code_size"] == code_size
    assert summarised | {"test/mse", "val/mse"} <= set(summary)
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert f"train/{logged}" in rows[0]
    assert pictures <= {path.stem for path in (tmp_path / "run").glob("*.png")}
    shown = capsys.readouterr()
    picture = f"{min(pictures)}.png" if len(pictures) == 1 else "reconstructions.png"
    assert f"look {tmp_path / 'run' / picture}" in shown.out
    load(tmp_path / "run")
    if any(name.startswith("samples-prior") for name in pictures):
        images = sample(tmp_path / "run", 3, seed=1)
        assert images.shape == (3, 1, 28, 28)
        assert torch.equal(images, sample(tmp_path / "run", 3, seed=1))
        assert torch.equal(images, sample(tmp_path / "run/model.safetensors", 3, seed=1))
        assert not torch.equal(images, sample(tmp_path / "run", 3, seed=2))
    if experiment is vqvae:
        assert summary["code_bits"] == 49 * 7
        assert "step 2/2  epoch 1.00  train  loss" in shown.err
        assert load_prior(tmp_path / "run/prior.safetensors").codebook_size == 128


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("bottleneck", ["vq", slow("fsq"), slow("gaussian")])
def test_vqgan_is_reported(bottleneck: Any, tmp_path: Path) -> None:
    config = short(vqgan.Config(adversarial=AdversarialConfig(start=2)), tmp_path / "run")
    vqgan.main(replace(config, model=vqgan.Model(channels=(4, 8), bottleneck=bottleneck)))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert FRECHET | {"test/frechet/reconstructions", "test/sharpness", "test/mse"} <= set(summary)
    last = json.loads((tmp_path / "run/history.jsonl").read_text().splitlines()[-1])
    assert {"train/perceptual", "train/adversarial", "train/adaptive_weight", "train/logit_real"} <= set(last)
    assert ("code_bits" in summary) == (bottleneck != "gaussian")


@pytest.mark.usefixtures("few_digits")
def test_mae_is_reported_and_its_encoder_trained_further(tmp_path: Path) -> None:
    mae.main(short(replace(mae.Config(), model=mae.Model(width=16, depth=1, heads=2)), tmp_path / "mae"))
    summary = json.loads((tmp_path / "mae/summary.json").read_text())
    assert {"test/hidden_mse", "val/hidden_mse", "code_size"} <= set(summary)
    assert (tmp_path / "mae/restorations.png").exists()
    encoder = load(tmp_path / "mae").encoder
    config = short(classify.Config(), tmp_path / "run")
    config = replace(config, model=classify.Model(encoder=f"run:{tmp_path / 'mae'}"))
    classify.main(replace(config, recipe=replace(config.recipe, steps=1, lr=1e-9)))
    for name, value in load(tmp_path / "run").encoder.state_dict().items():
        torch.testing.assert_close(value, encoder.state_dict()[name])


@pytest.mark.usefixtures("few_digits")
def test_gan_writes_samples_and_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = short(gan.Config(), tmp_path / "run")
    gan.main(config)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert FRECHET | {"test/frechet/samples", "parameters", "images_per_second"} <= set(summary)
    assert (tmp_path / "run/samples.png").exists()
    assert f"look {tmp_path / 'run/samples.png'}" in capsys.readouterr().out
    assert len(list((tmp_path / "run/pictures").glob("samples-*.png"))) == 2
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert {"train/generator", "train/discriminator", "train/learning_rate"} <= set(rows[0])
    images = sample(tmp_path / "run", 3, seed=1)
    assert images.shape == (3, 1, 28, 28)
    assert torch.equal(images, sample(tmp_path / "run/model.safetensors", 3, seed=1))
    assert not torch.equal(images, sample(tmp_path / "run", 3, seed=2))
    generator, _ = gan.build(config.model, config.data.load())
    load_weights(tmp_path / "run/model.safetensors", generator)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        torch.testing.assert_close(generated(generator, 3), images)


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize(
    ("experiment", "changes", "logged"),
    [
        (ladder, {}, "denoising/4"),
        slow(semi, {}, "taught"),
        (semi, {"teaching": TeacherConfig("mean-teacher"), "objective": Joint()}, "mse"),
        slow(semi, {"teaching": TeacherConfig(weight=0.0)}, "cross_entropy"),
    ],
)
def test_main_trains_with_few_labels(experiment: Any, changes: dict[str, Any], logged: str, tmp_path: Path) -> None:
    config = replace(short(experiment.Config(), tmp_path / "run"), **changes)
    experiment.main(replace(config, data=replace(config.data, labels=20)))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {"test/accuracy", "val/accuracy"} <= set(summary)
    assert ("test/mse" in summary) == (logged == "mse")
    rows = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert f"train/{logged}" in rows[0]
    assert ("train/consistency" in rows[0]) == (logged in ("taught", "mse"))
    load(tmp_path / "run")


@pytest.mark.parametrize(("channels", "latent"), [pytest.param((4,), None, marks=pytest.mark.slow), ((4, 6, 8), 16)])
@pytest.mark.usefixtures("few_digits")
def test_joint_supports_depths_and_latent_vectors(
    channels: tuple[int, ...], latent: int | None, tmp_path: Path
) -> None:
    config = short(joint.Config(), tmp_path / "run")
    config = replace(config, model=joint.Model(channels=channels, latent=latent, norm=True))
    joint.main(config)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["code_size"] == (latent or 4 * 14 * 14)


def test_joint_takes_a_colour_folder_with_few_labels_and_no_validation(tmp_path: Path) -> None:
    for c in ("cat", "dog"):
        (tmp_path / "pictures" / c).mkdir(parents=True)
        for i in range(40):
            Image.new("RGB", (13 + i % 3, 17), (i, 2 * i, 200)).save(tmp_path / "pictures" / c / f"{i}.png")
    config = short(joint.Config(), tmp_path / "run")
    data = Data("folder", tmp_path / "pictures", size=15, validation=0, labels=6, labelled_per_batch=3)
    joint.main(replace(config, data=data, recipe=replace(config.recipe, batch_size=16)))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {"test/accuracy/cat", "test/accuracy/dog", "test/ssim"} <= set(summary)
    assert not (tmp_path / "run/best.safetensors").exists()


@pytest.mark.slow
def test_tracking_cost_prints_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    tracking_cost.main(tracking_cost.Config(steps=9, log_every=1, modes=("offline",)))
    first, offline = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("W&B")]
    assert first.startswith("9 steps, a row every 1")
    assert offline.startswith("offline")
    assert "2 pairs" in offline


def test_tracking_cost_compares_pairs_of_rows() -> None:
    """Logging a tracked row takes 2 seconds, an untracked row 1; the intervals are 4 and 3 seconds."""
    times, clock = [], 0.0
    for row in range(13):
        tracked = row % 4 in (0, 3)
        times.append((clock, clock + 1 + tracked))
        clock += 3 + tracked
    assert tracking_cost._compare(times, log_every=5) == ([4 / 3] * 4, 1 / 5)


@pytest.mark.slow
def test_command_line_trains_on_a_folder(tmp_path: Path) -> None:
    for i in range(160):
        picture = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), i).save(picture)
    small = (
        "--data.name folder --data.root pictures --data.validation 16 --recipe.epochs 2 --model.channels 4 8".split()
    )
    first = run("experiments.joint", *small, "--run.dir", "here", "--run.wandb", "offline", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    for line in ("test/accuracy", "run  here", "look here/reconstructions.png", "wandb leet", "wandb sync"):
        assert line in first.stdout


BAD = "--data.nam mnist", 2, "error: unknown option --data.nam; the nearest is --data.name"
DIVERGED = "--recipe.lr 1e30 --data.limit 256 --recipe.momentum 0", 1, "became NaN or infinite at step"


@pytest.mark.parametrize(("args", "code", "complaint"), [BAD, slow(*DIVERGED)])
def test_process_exits_with_one_line_and_code(tmp_path: Path, args: str, code: int, complaint: str) -> None:
    result = run("experiments.joint", *args.split(), "--run.dir=here", "--run.wandb=disabled", cwd=tmp_path)
    assert result.returncode == code
    assert complaint in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert (tmp_path / "here").exists() == (code == 1)  # bad input writes nothing


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ("--data.limit 100", "error: --recipe.batch-size must be at most 100, the number of training images, got 128"),
        ("--model.latent 0", "error: --model.latent must be positive, got 0"),
        ("--recipe.device cuda:9 --data.limit 256", "error: --recipe.device: no device cuda:9"),
        ("--data.labels 9", "error: --data.labels must be at least the number of classes, 10, got 9"),
    ],
)
def test_cli_reports_bad_input_in_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: str, complaint: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["joint", *args.split(), "--run.dir=here", "--run.wandb=disabled"])
    with pytest.raises(SystemExit) as ended:
        cli(joint.main)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(complaint)
    assert not Path("here").exists()


def test_import_ae_loads_no_heavy_package() -> None:
    heavy = {"wandb", "tyro", "torchvision", "sklearn", "scipy", "PIL", "torch._dynamo", "sympy"}
    script = f"import ae, sys; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_mean_iou_averages_over_classes() -> None:
    classes, predicted = torch.tensor([[[0, 0], [1, 2]]]), torch.tensor([[[0, 1], [1, 1]]])
    assert segment.mean_iou(predicted, classes) == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)


def test_segment_scenes_depend_on_seed_and_number(mnist: Splits) -> None:
    scenes = segment.Scenes(held(mnist.train), 3, seed=1)
    (image, targets), (again, _) = scenes[2], scenes[2]
    assert torch.equal(image, again)
    assert not torch.equal(image, scenes[1][0])
    assert image.shape == (1, 56, 56)
    assert ((targets["digit"] != segment.BACKGROUND) == (image[0] > 0.5)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stream"), [("arrays", True), ("parquet", False), ("parquet", True)])
def test_rows_prints_times_and_memory(kind: Any, stream: bool, capsys: pytest.CaptureFixture[str]) -> None:
    rows.main(rows.Config(7000, kind, stream, batches=3))
    assert len(re.findall(r"[\d.,]+ (?:s|images/s)", capsys.readouterr().out)) == 3


@pytest.mark.slow
def test_streaming_prints_speeds(capsys: pytest.CaptureFixture[str]) -> None:
    streaming.main(streaming.Config(rounds=1, images=256, original=30, workers=1))
    assert "training, read" in capsys.readouterr().out
