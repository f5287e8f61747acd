"""Configuration of a run that the command line resumes or forks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ae.cli.arguments import to_args, value_of
from ae.runs.folder import read_config
from ae.utils.validation import checked

_INHERITED = ("project", "entity", "group", "tags")  # fields of RunConfig that a fork takes over


@dataclass(frozen=True)
class SavedConfig:
    """A run's configuration as arguments, which precede those of the command line; empty without a run."""

    folder: str = ""
    experiment: str = ""
    args: Sequence[str] = ()

    def mismatch(self, complaint: str) -> str:
        """Return the message that the configuration belongs to another experiment."""
        return (
            f"the configuration of {self.folder}, a run of {self.experiment}, does not fit this experiment: {complaint}"
        )


def saved_config(config_type: type, args: Sequence[str]) -> SavedConfig:
    """Read the configuration of the run that `--run.resume` or `--run.fork` names.

    A resumed run keeps all of its options but `fork`; a fork keeps the project, entity, group and tags.
    """
    if (folder := value_of("--run.resume", args)) is not None:
        content = read_config(checked(folder, Path, "--run.resume"))
        config = _with_run_options(content["config"], lambda name: name != "fork")
    elif (folder := value_of("--run.fork", args)) is not None:
        content = read_config(checked(folder, Path, "--run.fork"))
        config = _with_run_options(content["config"], lambda name: name in _INHERITED)
    else:
        return SavedConfig()
    return SavedConfig(folder, content["experiment"], to_args(config_type, config))


def _with_run_options(config: dict[str, Any], is_kept: Callable[[str], bool]) -> dict[str, Any]:
    """Return the configuration with those options of its run that `is_kept` selects."""
    options = config.get("run")
    if not isinstance(options, dict):
        return config
    return {**config, "run": {name: value for name, value in options.items() if is_kept(name)}}
