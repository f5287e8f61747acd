"""A study: the trials of a sweep in a folder, shared by any number of processes.

The folder holds `study.log` (Optuna's journal), `sweep.json` and a run's folder for each trial. Each trial is a process
of its own, observed through its history.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ae.runs.lock import is_running
from ae.sweeps.journal import journal_errors, open_study
from ae.sweeps.process import history_of, summary_of, trial_process
from ae.sweeps.space import Sweep
from ae.utils.cores import core_count
from ae.utils.errors import InputError, one_line
from ae.utils.files import is_number, read_json, write_whole
from ae.utils.seeding import derive

if TYPE_CHECKING:
    import subprocess

    import optuna
    from optuna.trial import FrozenTrial, Trial

_POLL_INTERVAL = 0.2  # seconds


class _StoppedError(Exception):
    """The trials of this process are to stop."""


class Study:
    """Search for the best trial of a sweep; other processes and machines may work on the same folder.

    Raises InputError where the folder holds another sweep or a broken study, or Optuna is not installed.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self.sweep, self.folder = sweep, folder
        self.runs = sweep.grid_size if sweep.method == "grid" else sweep.runs
        self._log = folder / "study.log"
        self._lock = FileLock(folder / "study.lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._check_folder()
                self._study = open_study(sweep, self._log)
        except OSError as error:
            raise InputError(f"can't work in {folder}: {one_line(error)}") from error

    def work(self, arguments: Sequence[str] = (), say: Callable[[str], None] = print, jobs: int = 1) -> None:
        """Run trials until none is left to start or to resume, `jobs` side by side, which share the cores.

        `arguments` are added to each command line. An exception, as of Ctrl-C, stops the trials, to be resumed later.
        """
        jobs = min(jobs, self.runs or jobs)
        environment = {"OMP_NUM_THREADS": str(max(1, core_count() // jobs))} if jobs > 1 else {}
        workers = [self, *(Study(self.sweep, self.folder) for _ in range(jobs - 1))]
        stopping = Event()
        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = [pool.submit(worker._work, arguments, environment, say, stopping) for worker in workers]
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                stopping.set()
                raise

    def _work(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        say: Callable[[str], None],
        stopping: Event,
    ) -> None:
        """Run one trial after another until none is left, or `stopping` is set."""
        while not stopping.is_set() and (claim := self._claim()) is not None:
            trial, lock = claim
            try:
                say(self._run(trial, arguments, environment, stopping))
            except _StoppedError:
                return
            finally:
                lock.release()

    def best(self) -> "tuple[FrozenTrial, Path] | None":
        """Return the best complete trial and the folder of its run; None where no trial is complete."""
        from optuna.trial import TrialState

        with journal_errors(self._log):
            trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        trials = [trial for trial in trials if trial.value is not None]
        if not trials:
            return None
        choose = max if self.sweep.maximize else min
        trial = choose(trials, key=lambda trial: trial.value or 0.0)
        return trial, self._folder_of(trial)

    def describe(self, trial: "FrozenTrial | Trial", result: str) -> str:
        """Describe a trial in a line: its number, result and values."""
        values = " ".join(f"{name}={value}" for name, value in self._point(trial).items())
        return f"trial {trial.number}  {result}  {values}"

    def _check_folder(self) -> None:
        """Raise InputError where the folder holds another sweep; the number of runs may differ."""
        path, expected = self.folder / "sweep.json", json.loads(json.dumps(asdict(replace(self.sweep, runs=None))))
        if not path.exists():
            write_whole(path, json.dumps(expected, indent=2).encode())
            return
        content = read_json(path)
        if not isinstance(content, dict) or not expected.keys() <= content.keys():
            raise InputError(f"{path} does not describe a sweep: it must have {', '.join(expected)}")
        if content != expected:
            raise InputError(f"{self.folder} holds another sweep: choose another folder, or use that sweep's file")

    def _claim(self) -> "tuple[Trial, FileLock] | None":
        """Claim an interrupted trial, or else start a new one; None where all trials are done or claimed.

        Returns the trial and its lock, which other workers can't acquire until it is released.
        """
        import optuna

        with self._lock, journal_errors(self._log):
            trials = self._study.get_trials(deepcopy=False)
            for interrupted in trials:
                if interrupted.state == optuna.trial.TrialState.RUNNING:
                    trial = optuna.Trial(self._study, interrupted._trial_id)
                    with suppress(Timeout):
                        return trial, self._acquire(trial)
            count = sum(trial.state != optuna.trial.TrialState.WAITING for trial in trials)
            if self.runs is not None and count >= self.runs:
                return None
            self._study.sampler = self._sampler(count)
            trial = self._study.ask({name: each.distribution() for name, each in self.sweep.parameters.items()})
            return trial, self._acquire(trial)

    def _acquire(self, trial: "Trial") -> FileLock:
        """Acquire the lock of a trial; raises Timeout where another worker holds it."""
        lock = FileLock(self._folder_of(trial).with_suffix(".lock"))
        lock.acquire(blocking=False)
        return lock

    def _sampler(self, number: int) -> "optuna.samplers.BaseSampler":
        """Create a trial's sampler: its samples are a function of the trial's number and the results before."""
        from optuna.samplers import RandomSampler, TPESampler

        seed = derive("sweep", number) % 2**32
        return TPESampler(seed=seed, constant_liar=True) if self.sweep.method == "bayes" else RandomSampler(seed)

    def _run(self, trial: "Trial", arguments: Sequence[str], environment: Mapping[str, str], stopping: Event) -> str:
        """Run a trial until it ends or is pruned, record its result, and return a line that describes it.

        Raises _StoppedError when `stopping` is set: the trial's process is ended, and the trial can be resumed.
        """
        from optuna.trial import TrialState

        folder = self._folder_of(trial)
        with journal_errors(self._log):
            point = self._point(trial)
        with trial_process(self.sweep, folder, point, arguments, environment) as process:
            is_pruned = self._watch(trial, folder, process, stopping)
        value = (summary_of(folder) or {}).get(self.sweep.metric)
        if is_pruned:
            state, value, result = TrialState.PRUNED, None, "stopped early"
        elif not is_number(value) or (process is not None and process.returncode):
            state, value, result = TrialState.FAIL, None, f"failed, see {folder.with_suffix('.log')}"
        else:
            state, result = TrialState.COMPLETE, f"{self.sweep.metric} {value:.5g}"
        with journal_errors(self._log):
            self._study.tell(trial, value, state)
        return self.describe(trial, result)

    def _watch(self, trial: "Trial", folder: Path, process: "subprocess.Popen[bytes] | None", stopping: Event) -> bool:
        """Report each validation to the pruner until the trial ends; return True to prune the trial."""
        reported = len(self._study.get_trials(deepcopy=False)[trial.number].intermediate_values)  # by a killed worker
        while process.poll() is None if process is not None else is_running(folder):
            if stopping.wait(_POLL_INTERVAL):
                raise _StoppedError
            values = [row[self.sweep.metric] for row in history_of(folder) if self.sweep.metric in row]
            for number, value in enumerate(values[reported:], reported + 1):
                if is_number(value):
                    trial.report(value, number)
            reported = len(values)
            if process is not None and reported and trial.should_prune():
                return True
        return False

    def _point(self, trial: "FrozenTrial | Trial") -> dict[str, Any]:
        """Return the values of a trial by parameter."""
        return {name: each.decode(trial.params[name]) for name, each in self.sweep.parameters.items()}

    def _folder_of(self, trial: "FrozenTrial | Trial") -> Path:
        return self.folder / f"trial-{trial.number:04d}"
