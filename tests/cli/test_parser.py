import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ae import Data, InputError, Joint, Run, RunConfig
from ae.cli import parse, to_args
from ae.runs.folder import to_json
from experiments.classify import Config as Classify
from experiments.joint import Config, Model
from experiments.reconstruct import Config as Reconstruct
from tests.helpers.tiers import slow


def test_parse_without_arguments_returns_defaults() -> None:
    assert parse(Config, []) == Config()


def test_parse_sets_fields() -> None:
    config = parse(
        Config,
        "--data.name folder --data.root pictures --data.limit 100 --data.labels 20 --data.labelled-per-batch 4 "
        "--data.validation 10 --data.augment.shift 3 --model.channels 8 16 32 --model.latent 16 --model.norm "
        "--model.likelihood bernoulli --objective.beta 2 --recipe.epochs 3 --recipe.batch-size 7 --recipe.lr 1e-3 "
        "--recipe.seed 5 --recipe.optimizer adamw --run.dir there --run.wandb offline".split(),
    )
    assert (config.data.name, config.data.root, config.data.limit) == ("folder", Path("pictures"), 100)
    assert (config.data.labels, config.data.labelled_per_batch, config.data.augment.shift) == (20, 4, 3)
    assert config.model == Model(channels=(8, 16, 32), latent=16, norm=True, likelihood="bernoulli")
    assert (config.model.likelihood, config.objective.beta) == ("bernoulli", 2)
    assert (config.recipe.epochs, config.recipe.batch_size, config.recipe.lr, config.recipe.seed) == (3, 7, 1e-3, 5)
    assert config.run == RunConfig(dir=Path("there"), wandb="offline")


def test_parse_accepts_arguments_of_wandb_agents() -> None:
    words = [
        "--model={'latent': 16, 'norm': True, 'channels': [8, 16]}",
        "--recipe.nesterov=True",
        "--recipe.batch_size=7",
        "--data={'augment': {'shift': 3}, 'limit': None}",
        "--run.tags=['a', 'b']",
        "--run.notes=True",
        "--objective.beta=0",
    ]
    config = parse(Config, words)
    assert config.model == Model(channels=(8, 16), latent=16, norm=True)
    assert (config.recipe.nesterov, config.recipe.batch_size) == (True, 7)
    assert (config.data.augment.shift, config.data.limit) == (3, None)
    assert (config.run.tags, config.run.notes) == (("a", "b"), "True")
    assert not parse(Config, ["--recipe.nesterov", "--recipe.nesterov=False"]).recipe.nesterov
    with pytest.raises(InputError, match=r"unknown option --model.latnt=4; the nearest is --model.latent"):
        parse(Config, ["--model={'latnt': 4}"])


@pytest.mark.parametrize("config_type", [Config, slow(Classify), slow(Reconstruct)])
def test_to_args_round_trips_through_parse(config_type: Any) -> None:
    config = config_type()
    changed = replace(
        config,
        data=Data("folder", root=Path("/a b/ü"), limit=7, validation=0),
        model=replace(config.model, channels=(1,), norm=True),
        recipe=replace(config.recipe, lr=1 / 3, weight_decay=1e-20, nesterov=True, grad_clip=0.1),
    )
    for each in (config, changed):
        assert parse(config_type, to_args(config_type, to_json(each))) == each


def test_parse_resume_takes_saved_configuration_and_flags_override(tmp_path: Path) -> None:
    config = Config(data=Data("mnist", limit=100), objective=Joint(reconstruction=3.0))
    folder = tmp_path / "my run"
    Run("joint", RunConfig(dir=folder, wandb="disabled"), config).finish()
    for resume in (["--run.resume", str(folder)], [f"--run.resume={folder}"]):
        resumed = parse(Config, [*resume, "--recipe.epochs", "9"])
        expected = replace(config, recipe=replace(config.recipe, epochs=9), run=replace(config.run, resume=folder))
        assert resumed == expected


def test_parse_resume_rejects_configuration_of_another_experiment() -> None:
    Run("segment", RunConfig(dir=Path("~/run"), wandb="disabled"), {"model": {"width": 3}}).finish()
    message = (
        r"the configuration of ~/run, a run of segment, does not fit this experiment: unknown option --model.width"
    )
    with pytest.raises(InputError, match=message):
        parse(Config, ["--run.resume", "~/run"])


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ("--recipe.lrr 0.1", "unknown option --recipe.lrr; the nearest is --recipe.lr"),
        ("--data.labelled_per_batches=3", "the nearest is --data.labelled-per-batch"),
        ("zzz", "unknown option zzz; --help lists all options"),
        ("--data.name minst", r"--data.name must be mnist, .*, got 'minst'; the nearest is mnist"),
        ("--run.wandb onlin", r"the nearest is online"),
        ("--recipe.lr fast", "--recipe.lr.*fast"),
        ("--recipe.batch-size 0", "--recipe.batch-size must be positive, got 0"),
        slow("--recipe.epochs -3", "--recipe.epochs must be positive, got -3"),
        slow("--data.labels 0", "--data.labels must be positive, got 0"),
        ("--objective.reconstruction -1", "--objective.reconstruction must be 0 or more, got -1"),
        ("--objective.beta 1", "--objective.beta is in nats: choose .*likelihood bernoulli.* not mse"),
        ("--run.resume nowhere", "no run in nowhere"),
        ("--recipe.lr", "--recipe.lr"),
    ],
)
def test_parse_rejects_bad_arguments_in_one_line(args: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as error:
        parse(Config, args.split())
    message = str(error.value)
    assert "\n" not in message
    assert not set("│╭╮╰╯─") & set(message)


@pytest.mark.parametrize("config_type", [Config, slow(Classify), slow(Reconstruct)])
def test_parse_help_explains_every_field(config_type: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(config_type, ["--help"])
    assert stop.value.code == 0
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    lines = [line for line in lines if line.strip("-─╭╮╰╯ ")]
    flags = [i for i, line in enumerate(lines) if line.startswith("--")]
    assert len(flags) > 25
    for i in flags:
        end = next(j for j in range(i, len(lines)) if "".join(lines[i : j + 1]).count("{") == lines[j].count("}"))
        explanation = lines[end + 1].split("(default")[0]
        assert len(explanation.split()) > 1, lines[i]
        assert not explanation.startswith("--"), lines[i]


def test_parse_takes_weights_by_name_and_restores_them() -> None:
    config = parse(Config, ["--objective.heads", "a b", "0.5", "c", "2", "--recipe.seed", "3"])
    assert config.objective.heads == {"a b": 0.5, "c": 2.0}
    assert parse(Config, to_args(Config, to_json(config))) == config
    for words, complaint in (
        (["a"], "--objective.heads must be names with a value each, a number 0 or more or None, got 'a'"),
        (["a", "x"], "--objective.heads must be names with a value each, a number 0 or more or None, got 'a x'"),
        (["a", "-1"], "--objective.heads['a'] must be 0 or more, got -1.0"),
    ):
        with pytest.raises(InputError, match=re.escape(complaint)):
            parse(Config, ["--objective.heads", *words])
