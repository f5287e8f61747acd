"""Sweeps: a search over an experiment's flags, as W&B's sweep files describe it, run with no server.

One study is one folder: `study.log`, Optuna's journal, and a run's folder for each trial. Any number of processes that
see the folder may work on it at once; each trial is a process of its own, watched by what it logs.
"""

import importlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from ae.cli import flags, parse, to_args
from ae.errors import InputError, one_line
from ae.files import write_whole
from ae.run_folder import is_running, read_history, read_summary
from ae.seeding import derive
from ae.validation import nearest

if TYPE_CHECKING:
    import optuna

_WATCH_EVERY = 0.2  # seconds
_STOPPED_AFTER = 30  # seconds that a trial which is stopped has to finish its run


@dataclass(frozen=True)
class Parameter:
    """What one flag may be: one of `values`, or a number from `low` to `high`, both included."""

    values: tuple[Any, ...] = ()
    low: int | float = 0
    high: int | float = 0
    log: bool = False
    step: int | float | None = None
    is_integer: bool = False

    def distribution(self) -> "optuna.distributions.BaseDistribution":
        """As Optuna has it; values are their JSON, so that lists can be among them."""
        from optuna import distributions

        if self.values:
            return distributions.CategoricalDistribution([json.dumps(value) for value in self.values])
        if self.is_integer:
            return distributions.IntDistribution(int(self.low), int(self.high), self.log, int(self.step or 1))
        return distributions.FloatDistribution(self.low, self.high, self.log, self.step)

    def value(self, drawn: Any) -> Any:
        """What Optuna has drawn, as a value of the flag."""
        return json.loads(drawn) if self.values else drawn


@dataclass(frozen=True)
class Sweep:
    """What a sweep's file says.

    module      of the experiment, as in `experiments.joint`
    parameters  by flag without dashes, as in `model.latent`
    metric      of the validation, as in `val/accuracy`; its last value decides
    runs        how many trials; None: until it is stopped
    min_iter    validations before a hopeless trial may be stopped; None: none is ever stopped
    eta         of so many trials that come to a multiple of that by a power of `eta`, one goes on
    """

    name: str
    module: str
    method: Literal["grid", "random", "bayes"]
    parameters: dict[str, Parameter]
    metric: str
    maximize: bool
    runs: int | None = None
    min_iter: int | None = None
    eta: int = 3

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of values, the last parameter's changing fastest."""
        values = [parameter.values for parameter in self.parameters.values()]
        return [dict(zip(self.parameters, point, strict=True)) for point in itertools.product(*values)]

    def arguments(self, point: dict[str, Any]) -> list[str]:
        """The command line of a trial with these values."""
        nested: dict[str, Any] = {}
        for name, value in point.items():
            *groups, last = name.split(".")
            place = nested
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = value
        return to_args(self.config_type(), nested)

    def config_type(self) -> type:
        """The experiment's configuration."""
        return importlib.import_module(self.module).Config


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file, in the form of `wandb sweep`; raises InputError for what it can't mean."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"can't read {path}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no sweep: it must have program, method, metric and parameters")
    known = {
        "program",
        "command",
        "method",
        "metric",
        "parameters",
        "name",
        "description",
        "run_cap",
        "early_terminate",
    }
    for key in content:
        if key not in known:
            raise InputError(f"{path}: unknown key {key}{nearest(key, known)}")
    method, metric = content.get("method"), content.get("metric") or {}
    if method not in ("grid", "random", "bayes"):
        raise InputError(f"{path}: method must be grid, random or bayes, got {method}")
    if not str(metric.get("name", "")).startswith("val/") or metric.get("goal") not in ("minimize", "maximize"):
        raise InputError(f"{path}: metric needs a name that begins with val/, and a goal, minimize or maximize")
    ending = content.get("early_terminate") or {}
    if ending and ending.get("type") != "hyperband":
        raise InputError(f"{path}: early_terminate's type must be hyperband, got {ending.get('type')}")
    sweep = Sweep(
        name=content.get("name") or path.stem,
        module=_module(content, path),
        method=method,
        parameters=dict(_parameters(content.get("parameters") or {}, path)),
        metric=metric["name"],
        maximize=metric["goal"] == "maximize",
        runs=content.get("run_cap"),
        min_iter=int(ending.get("min_iter", 1)) if ending else None,
        eta=int(ending.get("eta", 3)),
    )
    _check(sweep, path)
    return sweep


def _module(content: dict[str, Any], path: Path) -> str:
    command = content.get("command") or []
    if "-m" in command:
        return str(command[command.index("-m") + 1])
    program = content.get("program")
    if not program:
        raise InputError(f"{path}: program is missing, as in experiments/joint.py")
    return ".".join(Path(program).with_suffix("").parts)


def _parameters(content: dict[str, Any], path: Path, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    for key, said in content.items():
        name = prefix + str(key)
        if not isinstance(said, dict):
            raise InputError(f"{path}: parameter {name} must have value, values, or min and max")
        if "parameters" in said:
            yield from _parameters(said["parameters"], path, f"{name}.")
        else:
            yield name, _parameter(name, said, path)


def _parameter(name: str, said: dict[str, Any], path: Path) -> Parameter:
    if "value" in said:
        return Parameter((said["value"],))
    if "values" in said:
        if not said["values"]:
            raise InputError(f"{path}: parameter {name} has no values to choose from")
        return Parameter(tuple(said["values"]))
    if not {"min", "max"} <= said.keys():
        raise InputError(f"{path}: parameter {name} must have value, values, or min and max")
    low, high = said["min"], said["max"]
    if not low <= high:
        raise InputError(f"{path}: parameter {name} has no values to choose from: min {low} is above max {high}")
    are_integers = isinstance(low, int) and isinstance(high, int)
    match said.get("distribution", "int_uniform" if are_integers else "uniform"):
        case "uniform":
            return Parameter(low=low, high=high)
        case "int_uniform":
            return Parameter(low=low, high=high, is_integer=True)
        case "log_uniform_values":
            return Parameter(low=low, high=high, log=True, is_integer=are_integers)
        case "q_uniform":
            return Parameter(low=low, high=high, step=said.get("q", 1), is_integer=are_integers)
        case other:
            allowed = "uniform, int_uniform, log_uniform_values or q_uniform"
            raise InputError(f"{path}: parameter {name}: distribution must be {allowed}, got {other}")


def _check(sweep: Sweep, path: Path) -> None:
    """Every parameter is a flag of the experiment, and a trial's command line can be read."""
    if not sweep.parameters:
        raise InputError(f"{path}: the search space is empty: parameters is missing")
    try:
        known = [flag.removeprefix("--").replace("-", "_") for flag in flags(sweep.config_type())]
    except (ImportError, AttributeError) as error:
        raise InputError(f"{path}: no experiment {sweep.module}: {error}") from error
    for name in sweep.parameters:
        if name.replace("-", "_") not in known:
            raise InputError(f"{path}: unknown parameter {name}{nearest(name, known)}")
    if sweep.method == "grid":
        for name, parameter in sweep.parameters.items():
            if not parameter.values:
                raise InputError(f"{path}: a grid needs value or values for {name}, not min and max")
    first = {name: one.values[0] if one.values else one.low for name, one in sweep.parameters.items()}
    try:
        parse(sweep.config_type(), sweep.arguments(first))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


class Study:
    """A sweep that is being worked on, in a folder that other processes and machines may work on too.

    Raises InputError where the folder holds another sweep, or Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self.sweep, self.folder = sweep, folder
        self.runs = len(sweep.grid()) if sweep.method == "grid" else sweep.runs
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._check_folder()
            self._study = self._open()

    def work(self, arguments: Sequence[str] = (), say: Callable[[str], None] = print) -> None:
        """Work on trials until none is left to begin or to take over; `arguments` are added to each one's."""
        while (claimed := self._claim()) is not None:
            trial, lock = claimed
            try:
                say(self._carry_out(trial, arguments))
            finally:
                lock.release()

    def _open(self) -> "optuna.Study":
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
        except ImportError as error:
            raise InputError("a sweep with no server needs Optuna: pip install -e '.[sweep]'") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        backend = JournalFileBackend(str(self.folder / "study.log"))
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.sweep.min_iter is not None:
            pruner = optuna.pruners.SuccessiveHalvingPruner(self.sweep.min_iter, self.sweep.eta)
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=self.sweep.name,
            direction="maximize" if self.sweep.maximize else "minimize",
            load_if_exists=True,
            pruner=pruner,
        )
        if self.sweep.method == "grid":
            for point in self.sweep.grid()[len(study.trials) :]:  # a kill may have cut this off
                study.enqueue_trial({name: json.dumps(value) for name, value in point.items()})
        return study

    def _check_folder(self) -> None:
        """The folder's sweep is this one; only the number of runs may differ."""
        path, said = self.folder / "sweep.json", json.loads(json.dumps(asdict(replace(self.sweep, runs=None))))
        if not path.exists():
            write_whole(path, json.dumps(said, indent=2).encode())
        elif json.loads(path.read_text(encoding="utf-8")) != said:
            raise InputError(f"{self.folder} holds another sweep: choose another folder, or go on with that one's file")

    def _claim(self) -> "tuple[optuna.Trial, FileLock] | None":
        """A trial that nobody works on, begun before or new, and the lock that says that this process does now."""
        import optuna

        with self._locked():
            trials = self._study.get_trials(deepcopy=False)
            for begun in trials:
                if begun.state == optuna.trial.TrialState.RUNNING:
                    trial = optuna.Trial(self._study, begun._trial_id)
                    with suppress(Timeout):
                        return trial, _lock(self._folder_of(trial))
            count = sum(trial.state != optuna.trial.TrialState.WAITING for trial in trials)
            if self.runs is not None and count >= self.runs:
                return None
            self._study.sampler = self._sampler(count)
            trial = self._study.ask({name: one.distribution() for name, one in self.sweep.parameters.items()})
            return trial, _lock(self._folder_of(trial))

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        """A new one for each trial: what it draws is a function of the trial's number and of those before it."""
        from optuna.samplers import RandomSampler, TPESampler

        seed = derive("sweep", number) % 2**32
        return TPESampler(seed=seed, constant_liar=True) if self.sweep.method == "bayes" else RandomSampler(seed)

    def _carry_out(self, trial: "optuna.Trial", arguments: Sequence[str]) -> str:
        """Run a trial to its end, or stop it where it is hopeless; tell the study; returns a line that says it."""
        from optuna.trial import TrialState

        folder = self._folder_of(trial)
        point = {name: one.value(trial.params[name]) for name, one in self.sweep.parameters.items()}
        process = None
        if not is_running(folder) and not _is_finished(folder):  # else a worker was killed, and its trial has gone on
            process = self._start(folder, point, arguments)
        is_hopeless = self._watch(trial, folder, process)
        summary = read_summary(folder) or {}
        value = summary.get(self.sweep.metric)
        if is_hopeless:
            state, value = TrialState.PRUNED, None
        elif value is None or not math.isfinite(value) or (process is not None and process.returncode):
            state, value = TrialState.FAIL, None
        else:
            state = TrialState.COMPLETE
        self._study.tell(trial, value, state)
        what = {TrialState.PRUNED: "stopped early", TrialState.FAIL: f"failed, see {folder.with_suffix('.log')}"}
        said = " ".join(f"{name}={value}" for name, value in point.items())
        return f"trial {trial.number}  {what.get(state) or f'{self.sweep.metric} {value:.5g}'}  {said}"

    def _start(self, folder: Path, point: dict[str, Any], arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
        """The trial's process, which goes on where an earlier one was killed. Its output is beside its folder.

        What W&B keeps of the trials is together in the study's folder, so that it can be looked at together.
        """
        if (folder / "config.json").exists():
            where = [f"--run.resume={folder}"]
        else:
            where = [f"--run.dir={folder}", f"--run.group={self.sweep.name}", *self.sweep.arguments(point)]
        with open(folder.with_suffix(".log"), "ab") as log:
            command = [sys.executable, "-m", self.sweep.module, *where, *arguments]
            return subprocess.Popen(
                command,
                env={"WANDB_DIR": str(self.folder), **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # Ctrl-C reaches it through this process alone

    def _watch(self, trial: "optuna.Trial", folder: Path, process: "subprocess.Popen[bytes] | None") -> bool:
        """Follow what the trial logs until it ends; returns whether it was stopped because it was hopeless."""
        reported = len(self._study.get_trials(deepcopy=False)[trial.number].intermediate_values)  # by a killed worker
        try:
            while process.poll() is None if process is not None else is_running(folder):
                time.sleep(_WATCH_EVERY)
                values = [row[self.sweep.metric] for row in read_history(folder) if self.sweep.metric in row]
                for number, value in enumerate(values[reported:], reported + 1):
                    if math.isfinite(value):
                        trial.report(value, number)
                reported = len(values)
                if process is not None and reported and trial.should_prune():
                    return True
            return False
        finally:
            _stop(process)

    def _folder_of(self, trial: "optuna.Trial") -> Path:
        return self.folder / f"trial-{trial.number:04d}"

    def _locked(self) -> FileLock:
        return FileLock(self.folder / "study.lock")


def _lock(folder: Path) -> FileLock:
    """The lock of who works on a trial; raises Timeout where somebody does."""
    lock = FileLock(folder.with_suffix(".lock"))
    lock.acquire(blocking=False)
    return lock


def _is_finished(folder: Path) -> bool:
    return read_summary(folder) is not None


def _stop(process: "subprocess.Popen[bytes] | None") -> None:
    """End a trial that still runs: by SIGTERM, so that its run is finished, and if that takes too long by force."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOPPED_AFTER)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
