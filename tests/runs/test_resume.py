"""Resume with a changed configuration, and forks of a run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ae import Autoencoder, Batch, Data, InputError, Joint, Loss, Recipe, Run, RunConfig, Splits, fit
from ae.cli import parse
from ae.runs.folder import read_config, to_json
from ae.runs.resume import changes
from experiments import joint as experiment
from tests.training.test_fit import QUICK, history, joint, open_run

CONFIG = experiment.Config()
STREAMED = replace(CONFIG, data=Data("folder", root=Path("pictures"), stream=True))
CONSTANT = replace(QUICK, schedule="constant")


def changed(before: experiment.Config, after: experiment.Config) -> dict[str, list[object]]:
    return changes(to_json(before), after, to_json(after))


def test_changes_allows_settings_without_effect_on_training() -> None:
    after = replace(
        CONFIG,
        recipe=replace(CONFIG.recipe, log_every=7, device="cpu"),
        data=replace(STREAMED.data, workers=5),
        run=RunConfig(group="seeds"),
    )
    assert changed(STREAMED, after) == {
        "recipe.log_every": [50, 7],
        "recipe.device": ["auto", "cpu"],
        "data.workers": [2, 5],
        "run.group": [None, "seeds"],
    }
    assert changed(CONFIG, CONFIG) == {}


@pytest.mark.parametrize(
    ("after", "difference"),
    [
        (replace(CONFIG, recipe=replace(CONFIG.recipe, lr=0.2)), "recipe.lr 0.1 -> 0.2"),
        (replace(CONFIG, recipe=replace(CONFIG.recipe, epochs=9)), "recipe.epochs 5 -> 9"),  # with one-cycle
        (replace(CONFIG, objective=Joint(reconstruction=5.0)), "objective.reconstruction 20.0 -> 5.0"),
        (replace(CONFIG, model=experiment.Model(latent=3)), "model.latent None -> 3"),
    ],
)
def test_changes_rejects_other_settings_with_difference(after: experiment.Config, difference: str) -> None:
    with pytest.raises(InputError, match=f"can't be continued with another {difference}; start .* --run.fork"):
        changed(CONFIG, after)


def test_changes_names_a_few_of_many_settings_shortly() -> None:
    before = to_json(CONFIG)
    before["recipe"] = {name: [name] * 1000 for name in before["recipe"]}
    with pytest.raises(InputError, match=r"another recipe\.epochs \['epochs', .* and \d+ more; start") as error:
        changes(before, CONFIG, to_json(CONFIG))
    assert len(str(error.value)) < 600


def test_changes_ignores_settings_missing_in_older_versions() -> None:
    before = to_json(CONFIG)
    del before["recipe"]["deterministic"]
    assert changes(before, CONFIG, to_json(CONFIG)) == {}


def test_fit_resumes_for_more_epochs_with_constant_schedule(digits: Splits, tmp_path: Path) -> None:
    def train(folder: Path, epochs: int, resume: bool = False) -> None:
        recipe = replace(CONSTANT, epochs=epochs)
        where = RunConfig(resume=folder, wandb="disabled") if resume else RunConfig(dir=folder, wandb="disabled")
        with Run("test", where, {"recipe": recipe}) as run:
            fit(joint(), Joint(), digits, recipe, run)

    train(tmp_path / "at once", 4)
    train(tmp_path / "later", 2)
    train(tmp_path / "later", 4, resume=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("at once", "later")]
    assert weights[0] == weights[1]
    assert history(tmp_path / "at once") == history(tmp_path / "later")
    assert read_config(tmp_path / "later")["changes"] == [{"recipe.epochs": [2, 4]}]


def test_fork_starts_from_weights(digits: Splits, tmp_path: Path) -> None:
    with open_run(tmp_path / "first") as run:
        fit(joint(), Joint(), digits, QUICK, run)
    tiny_lr = Recipe(steps=1, batch_size=60, lr=1e-30, schedule="constant")
    with Run("test", RunConfig(dir=tmp_path / "second", fork=tmp_path / "first", wandb="disabled")) as run:
        fit(joint(seed=5), Joint(), digits, tiny_lr, run)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(tensor.equal(second[name]) for name, tensor in first.items())
    (tmp_path / "first/model.safetensors").unlink()  # as in an unfinished run
    with Run("test", RunConfig(dir=tmp_path / "third", fork=tmp_path / "first", wandb="disabled")) as run:
        fit(joint(seed=5), Joint(), digits, tiny_lr, run)
    assert (tmp_path / "third/model.safetensors").read_bytes() == (tmp_path / "second/model.safetensors").read_bytes()


def test_load_fork_ignores_parameters_of_objective(digits: Splits, tmp_path: Path) -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.submodel = nn.Linear(1, 1)

        def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
            loss = Joint()(model, batch, step)
            return Loss(loss.total + self.submodel.weight.square().sum(), loss.terms, loss.counts)

    with open_run(tmp_path / "first") as run:
        fit(joint(), Weighted(), digits, QUICK, run)
    (tmp_path / "first/model.safetensors").unlink()
    model = joint(seed=5)
    with Run("test", RunConfig(dir=tmp_path / "second", fork=tmp_path / "first", wandb="disabled")) as run:
        run.load_fork(model)
    state = torch.load(tmp_path / "first/state.pt", weights_only=True)["trained"]
    assert all(tensor.equal(state[f"model.{name}"]) for name, tensor in model.state_dict().items())


def test_parse_fork_takes_configuration_but_not_folder(tmp_path: Path) -> None:
    where = RunConfig(dir=tmp_path / "run", wandb="disabled", name="first", group="a")
    config = replace(CONFIG, run=where, recipe=replace(CONFIG.recipe, lr=0.03))
    with Run("joint", where, config) as run:
        run.log({"train/loss": 1.0}, 1, 0.1)
    fork = parse(experiment.Config, ["--run.fork", str(tmp_path / "run"), "--recipe.epochs", "2"])
    assert fork.recipe == replace(CONFIG.recipe, lr=0.03, epochs=2)
    assert fork.run == RunConfig(fork=tmp_path / "run", group="a")


def test_fork_rejects_resume_and_run_without_weights(digits: Splits, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="resume and fork exclude each other"):
        RunConfig(resume=tmp_path, fork=tmp_path)
    where = RunConfig(dir=tmp_path / "run", fork=tmp_path / "none", wandb="disabled")
    with pytest.raises(InputError, match=r"can.t fork .*none: it holds no weights yet"), Run("test", where) as run:
        fit(joint(), Joint(), digits, QUICK, run)
