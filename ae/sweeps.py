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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, is_dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from ae.cli import flags, parse, to_args
from ae.runs.folder import Row, is_running, read_history, read_summary
from ae.utils.errors import InputError, one_line
from ae.utils.files import check_regular, read_json, write_whole
from ae.utils.seeding import derive
from ae.utils.validation import AtLeast2, Positive, checked, field_types, nearest

if TYPE_CHECKING:
    import optuna
    from optuna.storages.journal import JournalFileSymlinkLock

_KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "run_cap", "early_terminate")
_PARAMETER_KEYS = ("value", "values", "min", "max", "distribution", "q")
_OF_STUDY = ("run.dir", "run.resume", "run.fork")
_LARGEST_FILE = 1_000_000  # bytes
_LARGEST_INTEGER = 2**53  # which a sampler's floating-point numbers hold
_LARGEST_GRID = 10_000  # points
_FEW = 8  # points of a grid, all of which are tried as command lines
_WATCH_EVERY = 0.2  # seconds
_STOPPED_AFTER = 30  # seconds that a trial which is stopped has to finish its run


@dataclass(frozen=True)
class Parameter:
    """Search space of one flag: one of `values`, or a number from `low` to `high`, both included."""

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
        high = self._last_step()
        if self.is_integer:
            return distributions.IntDistribution(int(self.low), int(high), self.log, int(self.step or 1))
        return distributions.FloatDistribution(self.low, high, self.log, self.step)

    def _last_step(self) -> int | float:
        """The highest number that whole steps reach."""
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        reached = low + (high - low) // step * step
        return int(reached) if self.is_integer else float(reached)

    def examples(self) -> tuple[Any, ...]:
        """All values, or of a range both ends and a number between."""
        if self.values:
            return self.values
        low, high = (int(self.low), int(self.high)) if self.is_integer else (float(self.low), float(self.high))
        return low, high, (low + high) // 2 if self.is_integer else low / 2 + high / 2

    def value(self, drawn: Any) -> Any:
        """Convert a value that Optuna has drawn to one of the flag."""
        return json.loads(drawn) if self.values else drawn


@dataclass(frozen=True)
class Sweep:
    """A sweep, as its file describes it.

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

    @property
    def grid_size(self) -> int:
        """How many points the grid has."""
        return math.prod(len(parameter.values) for parameter in self.parameters.values())

    def arguments(self, point: dict[str, Any]) -> list[str]:
        """The command line of a trial with these values."""
        return to_args(self.config_type(), _nested(point))

    def config_type(self) -> type:
        """The experiment's configuration."""
        return importlib.import_module(self.module).Config


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file, in the form of `wandb sweep`; raises InputError for what it can't mean."""
    try:
        return _sweep(_load(path), path.stem)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _load(path: Path) -> Any:
    """The content of a YAML file."""
    from ae.utils.yaml import load_yaml

    if path.exists() and not path.is_file():
        raise InputError("can't read it: it is no regular file")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"it is no sweep: it has more than {_LARGEST_FILE:,} bytes")
        return load_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"can't read it: {error.strerror or one_line(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"can't read it: it is no text in UTF-8: {one_line(error)}") from error


def _sweep(content: Any, name: str) -> Sweep:
    if not isinstance(content, dict):
        raise InputError("it is no sweep: it must have program, method, metric and parameters")
    _check_keys(content, _KEYS, "")
    method, metric = content.get("method"), _part(content, "metric", {"name", "goal"})
    if method not in ("grid", "random", "bayes"):
        raise InputError(f"method must be grid, random or bayes, got {method!s:.60}")
    if not str(metric.get("name", "")).startswith("val/") or metric.get("goal") not in ("minimize", "maximize"):
        raise InputError("metric needs a name that begins with val/, and a goal, minimize or maximize")
    ending = _part(content, "early_terminate", {"type", "min_iter", "eta"})
    if ending and ending.get("type") != "hyperband":
        raise InputError(f"early_terminate's type must be hyperband, got {ending.get('type')!s:.60}")
    sweep = Sweep(
        name=_name(content.get("name", name)),
        module=_module(content),
        method=method,
        parameters=_parameters(content.get("parameters")),
        metric=metric["name"],
        maximize=metric["goal"] == "maximize",
        runs=checked(content.get("run_cap"), Positive[int] | None, "run_cap"),
        min_iter=checked(ending.get("min_iter", 1), Positive[int], "early_terminate's min_iter") if ending else None,
        eta=checked(ending.get("eta", 3), AtLeast2[int], "early_terminate's eta"),
    )
    _check(sweep)
    return sweep


def _check_keys(content: dict[Any, Any], known: Collection[str], of: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"unknown key {key!s:.60}{of}{nearest(str(key), known)}")


def _part(content: dict[Any, Any], key: str, known: Collection[str]) -> dict[str, Any]:
    """A part that has keys of its own; empty where it is missing."""
    part = content.get(key) or {}
    if not isinstance(part, dict):
        raise InputError(f"{key} must have {', '.join(sorted(known))}, got {part!r:.60}")
    _check_keys(part, known, f" of {key}")
    return part


def _name(said: Any) -> str:
    """The study's name, which is a folder's and a group's in W&B."""
    name = str(said) if isinstance(said, str | int) and not isinstance(said, bool) else ""
    if not 0 < len(name) <= 128 or name in (".", "..") or "/" in name or not name.isprintable():
        raise InputError(f"name must be the name of a folder, of at most 128 characters, got {said!r:.60}")
    return name


def _module(content: dict[str, Any]) -> str:
    command, program = content.get("command") or [], content.get("program")
    if not isinstance(command, list):
        raise InputError(f"command must be a list of words, got {command!r:.60}")
    if "-m" in command[:-1]:
        module = command[command.index("-m") + 1]
    elif isinstance(program, str) and program:
        module = ".".join(Path(program).with_suffix("").parts) if Path(program).name else ""
    else:
        raise InputError("program is missing, as in experiments/joint.py")
    if not isinstance(module, str) or not all(part.isidentifier() for part in module.split(".")):
        raise InputError(
            f"program must be a module's file below this folder, as in experiments/joint.py, got {module!s:.60}"
        )
    return module


def _parameters(content: Any) -> dict[str, Parameter]:
    if not content:
        raise InputError("the search space is empty: parameters is missing")
    found: dict[str, Parameter] = {}
    for name, said in _flatten(content):
        name = name.replace("-", "_")
        if name in found:
            raise InputError(f"parameter {name} is there twice")
        try:
            found[name] = _parameter(said)
        except InputError as error:
            raise InputError(f"parameter {name:.60} {error}") from error
    return found


def _flatten(content: Any, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(content, dict):
        raise InputError(f"{prefix.rstrip('.') or 'parameters'} must have parameters by name, got {content!r:.60}")
    for key, said in content.items():
        name = f"{prefix}{key}"
        if not isinstance(said, dict):
            raise InputError(f"parameter {name:.60} must have value, values, or min and max")
        if "parameters" in said:
            _check_keys(said, ["parameters"], f" of parameter {name:.60}")
            yield from _flatten(said["parameters"], f"{name}.")
        else:
            yield name, said


def _parameter(said: dict[str, Any]) -> Parameter:
    if unknown := [key for key in said if key not in _PARAMETER_KEYS]:
        raise InputError(f"has the unknown key {unknown[0]!s:.60}{nearest(str(unknown[0]), _PARAMETER_KEYS)}")
    if len({"value", "values", "min"} & said.keys()) != 1 or ("min" in said) != ("max" in said):
        raise InputError("must have value, values, or min and max")
    if "min" in said:
        return _range(said)
    values = [said["value"]] if "value" in said else said["values"]
    kind = "constant" if "value" in said else "categorical"
    if said.get("distribution", kind) != kind or "q" in said:
        raise InputError("must have min and max where it has q, or a distribution of numbers")
    if not isinstance(values, list):
        raise InputError(f"needs a list of values, got {values!r:.60}")
    if not values:
        raise InputError("has no values to choose from")
    texts = [_json(value) for value in values]
    if len(set(texts)) < len(texts):
        raise InputError(f"has the value {next(text for text in texts if texts.count(text) > 1):.60} twice")
    return Parameter(tuple(values))


def _range(said: dict[str, Any]) -> Parameter:
    low, high = (_number(said[key], key) for key in ("min", "max"))
    if low > high:
        raise InputError(f"has no values to choose from: min {low} is above max {high}")
    if low == high:
        raise InputError(f"has no values to choose from: min equals max; write value: {low}")
    if not math.isfinite(float(high) - float(low)):
        raise InputError(f"has a range that is too large: from {low} to {high}")
    are_integers = isinstance(low, int) and isinstance(high, int)
    distribution = said.get("distribution", "int_uniform" if are_integers else "uniform")
    if "q" in said and distribution != "q_uniform":
        raise InputError("has a q, which takes the distribution q_uniform")
    match distribution:
        case "uniform":
            return Parameter(low=low, high=high)
        case "int_uniform":
            if int(low) != low or int(high) != high:
                raise InputError(f"needs whole numbers for int_uniform, got {low} and {high}")
            return Parameter(low=int(low), high=int(high), is_integer=True)
        case "log_uniform_values":
            if low <= 0:
                raise InputError(f"needs a positive min for log_uniform_values, got {low}")
            return Parameter(low=low, high=high, log=True, is_integer=are_integers)
        case "q_uniform":
            q = _number(said.get("q", 1), "q")
            if not 0 < q <= high - low:
                raise InputError(f"needs a q above 0 and up to max - min, got {q}")
            return Parameter(low=low, high=high, step=q, is_integer=are_integers and isinstance(q, int))
        case other:
            allowed = "uniform, int_uniform, log_uniform_values or q_uniform"
            raise InputError(f"distribution must be {allowed}, got {other!s:.60}")


def _number(value: Any, name: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise InputError(f"needs a finite number for {name}, got {value!r:.60}")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise InputError(
            f"needs a {name} of at most 2^53, got {value:.3e}" if abs(value) < 1e300 else f"has a huge {name}"
        )
    return value


def _json(value: Any) -> str:
    """A value of a flag as JSON; raises InputError for what a flag can't be: a date, NaN, a null character."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"has a value that no flag can have: {value!r:.60}") from error
    if "\\u0000" in text:
        raise InputError(f"has a value with a null character: {text:.60}")
    return text


def _check(sweep: Sweep) -> None:
    """Every parameter is a flag of the experiment, and the command lines of trials can be read."""
    known = [flag.removeprefix("--").replace("-", "_") for flag, hint in _flags_of(sweep).items() if hint is not None]
    for name in sweep.parameters:
        if name not in known or name in _OF_STUDY:
            own = "; the study itself sets it" if name in _OF_STUDY else nearest(name, known)
            raise InputError(f"unknown parameter {name:.60}{own}")
    if sweep.method == "grid":
        for name, parameter in sweep.parameters.items():
            if not parameter.values:
                raise InputError(f"a grid needs value or values for {name}, not min and max")
        if sweep.grid_size > _LARGEST_GRID:
            size = f"{sweep.grid_size:,}" if sweep.grid_size < 1e15 else f"{float(min(sweep.grid_size, 10**300)):.1e}"
            raise InputError(f"a grid of {size} points: at most {_LARGEST_GRID:,} are gone through; take method random")
    config: Any = None
    for point in _examples(sweep):
        with suppress(InputError):  # what the fields do not take, a command line may still read
            if config is not None:
                _with(config, _nested(point))
                continue
        try:
            config = parse(sweep.config_type(), sweep.arguments(point))
        except SystemExit as stop:  # --help in a value
            raise InputError(f"a trial with {point!r:.100} would not run") from stop


def _nested(point: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted names as dicts within each other."""
    nested: dict[str, Any] = {}
    for name, value in point.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return nested


def _with(config: Any, values: dict[str, Any]) -> Any:
    """A configuration with other values, each checked by its field's type; far quicker than reading a command line."""
    kind: Any = type(config)
    hints, changed = field_types(kind), {}
    for name, value in values.items():
        part = getattr(config, name)
        is_group = is_dataclass(part) and isinstance(value, dict)
        changed[name] = _with(part, value) if is_group else checked(value, hints[name], name)
    return replace(config, **changed)


def _flags_of(sweep: Sweep) -> dict[str, Any]:
    try:
        return flags(sweep.config_type())
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
        raise InputError(f"no experiment {sweep.module:.60}: {one_line(error)}") from error


def _examples(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Points that a trial may have: of a small grid all, else each value of each parameter with the others' first."""
    if sweep.method == "grid" and sweep.grid_size <= _FEW:
        yield from sweep.grid()
        return
    values = {name: parameter.examples() for name, parameter in sweep.parameters.items()}
    first = {name: each[0] for name, each in values.items()}
    yield first
    for name, each in values.items():
        for value in each[1:]:
            yield first | {name: value}


class Study:
    """A sweep that is being worked on, in a folder that other processes and machines may work on too.

    Raises InputError where the folder holds another sweep, or what no study has written, or Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self.sweep, self.folder = sweep, folder
        self.runs = sweep.grid_size if sweep.method == "grid" else sweep.runs
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                self._check_folder()
                self._study = self._open()
        except OSError as error:
            raise InputError(f"can't work in {folder}: {one_line(error)}") from error

    def work(self, arguments: Sequence[str] = (), say: Callable[[str], None] = print) -> None:
        """Work on trials until none is left to begin or to take over; `arguments` are added to each one's."""
        while (claimed := self._claim()) is not None:
            trial, lock = claimed
            try:
                say(self._carry_out(trial, arguments))
            finally:
                lock.release()

    def best(self) -> "tuple[optuna.trial.FrozenTrial, Path] | None":
        """The trial with the best value so far, and its run's folder; None where no trial has come to one."""
        from optuna.trial import TrialState

        with self._journal():
            trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        found = [trial for trial in trials if trial.value is not None]
        if not found:
            return None
        choose = max if self.sweep.maximize else min
        trial = choose(found, key=lambda trial: trial.value or 0.0)
        return trial, self._folder_of(trial)

    def describe(self, trial: "optuna.trial.FrozenTrial | optuna.Trial", result: str) -> str:
        """A line on a trial: its number, what came of it, and its values."""
        said = " ".join(f"{name}={value}" for name, value in self._point(trial).items())
        return f"trial {trial.number}  {result}  {said}"

    def _point(self, trial: "optuna.trial.FrozenTrial | optuna.Trial") -> dict[str, Any]:
        """The values of a trial by parameter."""
        return {name: one.value(trial.params[name]) for name, one in self.sweep.parameters.items()}

    def _open(self) -> "optuna.Study":
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
        except ImportError as error:
            raise InputError("a sweep with no server needs Optuna: pip install -e '.[sweep]'") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        lock = JournalFileSymlinkLock(str(self._log))
        self._mend(lock)
        pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
        if self.sweep.min_iter is not None:
            pruner = optuna.pruners.SuccessiveHalvingPruner(self.sweep.min_iter, self.sweep.eta)
        with self._journal():
            study = optuna.create_study(
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(self._log), lock)),
                study_name=self.sweep.name,
                direction="maximize" if self.sweep.maximize else "minimize",
                load_if_exists=True,
                pruner=pruner,
            )
            begun = study.get_trials(deepcopy=False)
            if self.sweep.method == "grid":
                for point in self.sweep.grid()[len(begun) :]:  # a kill may have cut this off
                    study.enqueue_trial({name: json.dumps(value) for name, value in point.items()})
        return study

    def _mend(self, lock: "JournalFileSymlinkLock") -> None:
        """Check the journal's lines, and take away the last one where a kill has cut it off: Optuna would add to it."""
        if not self._log.exists():
            return
        check_regular(self._log)
        lock.acquire()
        try:
            with open(self._log, "rb+") as file:
                whole = 0
                for number, line in enumerate(file, 1):
                    if line.endswith(b"\n"):
                        _check_entry(line, f"{self._log}, line {number}")
                        whole += len(line)
                file.truncate(whole)
        finally:
            lock.release()

    @contextmanager
    def _journal(self) -> Iterator[None]:
        """Raise InputError for entries of the journal that have the right form and that Optuna can't use."""
        try:
            yield
        except (InputError, Timeout, OSError):
            raise
        except Exception as error:
            said = one_line(error)
            raise InputError(f"can't go on with {self._log}: {type(error).__name__}: {said}") from error

    @property
    def _log(self) -> Path:
        return self.folder / "study.log"

    def _check_folder(self) -> None:
        """The folder's sweep is this one; only the number of runs may differ."""
        path, said = self.folder / "sweep.json", json.loads(json.dumps(asdict(replace(self.sweep, runs=None))))
        if not path.exists():
            write_whole(path, json.dumps(said, indent=2).encode())
            return
        found = read_json(path)
        if not isinstance(found, dict) or not said.keys() <= found.keys():
            raise InputError(f"{path} describes no sweep: it must have {', '.join(said)}")
        if found != said:
            raise InputError(f"{self.folder} holds another sweep: choose another folder, or go on with that one's file")

    def _claim(self) -> "tuple[optuna.Trial, FileLock] | None":
        """A trial that nobody works on, begun before or new, and the lock that says that this process does now."""
        import optuna

        with self._locked(), self._journal():
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
        with self._journal():
            point = self._point(trial)
        process = None
        if not is_running(folder) and not _is_finished(folder):  # else a worker was killed, and its trial has gone on
            process = self._start(folder, point, arguments)
        is_hopeless = self._watch(trial, folder, process)
        value = (_summary(folder) or {}).get(self.sweep.metric)
        if is_hopeless:
            state, value = TrialState.PRUNED, None
        elif not _is_finite(value) or (process is not None and process.returncode):
            state, value = TrialState.FAIL, None
        else:
            state = TrialState.COMPLETE
        with self._journal():
            self._study.tell(trial, value, state)
        what = {TrialState.PRUNED: "stopped early", TrialState.FAIL: f"failed, see {folder.with_suffix('.log')}"}
        return self.describe(trial, what.get(state) or f"{self.sweep.metric} {value:.5g}")

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
                values = [row[self.sweep.metric] for row in _history(folder) if self.sweep.metric in row]
                for number, value in enumerate(values[reported:], reported + 1):
                    if _is_finite(value):
                        trial.report(value, number)
                reported = len(values)
                if process is not None and reported and trial.should_prune():
                    return True
            return False
        finally:
            _stop(process)

    def _folder_of(self, trial: "optuna.trial.FrozenTrial | optuna.Trial") -> Path:
        return self.folder / f"trial-{trial.number:04d}"

    def _locked(self) -> FileLock:
        return FileLock(self.folder / "study.lock")


def _lock(folder: Path) -> FileLock:
    """The lock of who works on a trial; raises Timeout where somebody does."""
    lock = FileLock(folder.with_suffix(".lock"))
    lock.acquire(blocking=False)
    return lock


def _is_finished(folder: Path) -> bool:
    return _summary(folder) is not None


def _summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a trial; None of one that has none, or a broken one: such a trial has failed."""
    try:
        return read_summary(folder)
    except (ValueError, OSError):
        return None


def _history(folder: Path) -> list[Row]:
    """The history of a trial; empty where it is broken: such a trial goes on, and its summary decides."""
    try:
        return read_history(folder)
    except (ValueError, TypeError, OSError):
        return []


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < sys.float_info.max


def _check_entry(line: bytes, where: str) -> None:
    """Raise InputError unless a line of the journal is one of Optuna's entries."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is broken: {one_line(error)}") from error
    is_entry = isinstance(entry, dict) and type(entry.get("op_code")) is int and isinstance(entry.get("worker_id"), str)
    if not is_entry:
        raise InputError(f"{where} is no entry of a study: it must have op_code and worker_id")


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
