"""Run folders of version 0.1 are loaded, resumed, forked and compared under the names since 0.2."""

import copy
import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ae import Run, RunConfig, VectorQuantizer, load
from ae.cli import cli, parse_part
from ae.compare.records import read_run
from ae.models.priors import PixelCNN
from ae.models.renamed import renamed_description
from ae.runs.folder import read_config
from ae.runs.renamed import renamed_settings
from ae.weights import describe, load_prior, save_weights
from experiments import vae, vqvae
from tests.helpers import ROOT
from tests.helpers.tiers import slow, slow_but

FILES = ROOT / "tests/files"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Writable copies of the folders."""
    for experiment in ("vae", "vqvae"):
        shutil.copytree(FILES / f"run-0.1-{experiment}", tmp_path / experiment)
    return tmp_path


def test_load_reads_renamed_tensors_and_arguments() -> None:
    quantizer = load(FILES / "run-0.1-vqvae").bottleneck
    assert isinstance(quantizer, VectorQuantizer)
    assert (quantizer.codebook_size, quantizer.dead_code_threshold) == (4, 0.05)
    stored = load_file(FILES / "run-0.1-vqvae/model.safetensors")
    assert torch.equal(quantizer.ema_cluster_size, stored["bottleneck.share"])
    assert torch.equal(quantizer.ema_embed_sum, stored["bottleneck.total"])
    assert bool(quantizer.initialized)
    gaussian = load(FILES / "run-0.1-vae").bottleneck.state_dict()
    stored = load_file(FILES / "run-0.1-vae/model.safetensors")
    assert torch.equal(gaussian["project_in.weight"], stored["bottleneck.reduce.weight"])
    assert torch.equal(gaussian["project_out.bias"], stored["bottleneck.restore.bias"])


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize(("experiment", "main"), [slow("vae", vae.main), ("vqvae", vqvae.main)])
def test_resume_continues_with_renamed_settings(
    old: Path, experiment: str, main: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [experiment, "--run.resume", str(old / experiment), "--recipe.steps", "6"])
    cli(main)
    content = json.loads((old / experiment / "config.json").read_text())
    assert json.loads((old / experiment / "summary.json").read_text())["step"] == 6
    assert "clip" not in content["config"]["recipe"]
    if experiment == "vae":
        assert content["config"]["objective"]["beta"] == 2.0
        assert content["config"]["objective"]["weight_schedule"]["beta"] == [0.0, 3]
    else:
        assert content["config"]["recipe"]["grad_clip"] == 1.0
        assert content["config"]["model"]["codebook_size"] == 4
    assert content["changes"][0]["recipe.steps"] == [4, 6]


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
def test_fork_starts_from_renamed_weights(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (old / "vqvae/model.safetensors").unlink()  # so that the fork loads the weights of the training state
    flags = ["--run.fork", str(old / "vqvae"), "--run.dir", str(old / "new"), "--recipe.steps", "1"]
    monkeypatch.setattr("sys.argv", ["vqvae", *flags, "--recipe.lr", "1e-12"])
    cli(vqvae.main)
    stored = load_file(FILES / "run-0.1-vqvae/model.safetensors")
    forked = load(old / "new")
    weight = forked.encoder.state_dict()["stages.0.conv.weight"]
    torch.testing.assert_close(weight, stored["encoder.stages.0.conv.weight"])


def test_compare_reads_renamed_settings() -> None:
    settings = read_run(FILES / "run-0.1-vae").config
    assert settings["objective.beta"] == 2.0
    assert "objective.rate" not in settings


def test_read_config_keeps_the_settings_of_later_versions(tmp_path: Path) -> None:
    with Run("mine", RunConfig(dir=tmp_path / "run", wandb="disabled"), {"recipe": {"clip": 1}}) as run:
        run.log({"x": 1.0}, step=1, epoch=0.0)
    assert read_config(tmp_path / "run")["config"] == {"recipe": {"clip": 1}}


def test_prior_of_version_0_1_loads(tmp_path: Path) -> None:
    prior = PixelCNN(5, channels=4, blocks=1)
    description = describe(prior)
    old = {"class": "PixelCNN", "codes": 5, "channels": 4, "blocks": 1}
    assert renamed_description(old) == description
    save_weights(tmp_path / "prior.safetensors", prior)
    assert load_prior(tmp_path / "prior.safetensors").codebook_size == 5


CONFIGS: dict[str, Any] = json.loads((FILES / "configs-0.1.json").read_text())


@pytest.mark.parametrize("experiment", slow_but("joint vae vqvae", CONFIGS))
def test_default_settings_of_version_0_1_are_the_present_defaults(experiment: str) -> None:
    expected = default_of_version_0_1(experiment)
    assert parse_part(type(expected), renamed_settings(CONFIGS[experiment])) == expected


def default_of_version_0_1(experiment: str) -> Any:
    """The default configuration, with the precision fp32 for the main job, which is auto now."""
    config = importlib.import_module(f"experiments.{experiment}").Config()
    return replace(config, recipe=replace(config.recipe, precision="fp32")) if experiment == "joint" else config


@pytest.mark.parametrize("experiment", slow_but("joint", ["joint", "sparse", "vqvae", "wae"]))
def test_likelihood_of_version_0_1_is_the_models(experiment: str) -> None:
    settings = copy.deepcopy(CONFIGS[experiment])
    joint = settings["objective"].get("joint", settings["objective"])
    joint |= {"likelihood": "gaussian", "std": 0.5}
    default = default_of_version_0_1(experiment)
    config = parse_part(type(default), renamed_settings(settings))
    assert config == replace(default, model=replace(default.model, likelihood="gaussian", std=0.5))


@pytest.mark.parametrize(
    "settings",
    [
        {"teaching": 3, "recipe": {"lr": 1.0}},
        {"teaching": {"decay": 0.9}, "recipe": 3},
        {"penalty": 1, "decay": 0.9, "recipe": None},
    ],
)
def test_settings_that_are_no_sections_are_kept(settings: dict[str, Any]) -> None:
    assert renamed_settings(settings) == settings


def test_settings_of_another_objective_keep_their_names() -> None:
    settings = {"model": {"width": 3}, "objective": {"likelihood": "poisson", "std": 2.0, "rate": 1.0}}
    assert renamed_settings(settings) == settings
