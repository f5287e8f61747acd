"""Parse a command line to a dataclass."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, TypeVar

from ae.cli.agents import from_agent
from ae.cli.arguments import flags, to_args
from ae.cli.messages import first_complaint, is_of_command_line, unknown_option, with_flags
from ae.cli.saved import saved_config
from ae.cli.tyro_rules import registry
from ae.utils.errors import InputError

Config = TypeVar("Config")


def parse(config_type: type[Config], args: Sequence[str], description: str = "") -> Config:
    """Parse `args` to a configuration; `--run.resume RUN` and `--run.fork RUN` start from the configuration of a run.

    Values may also be written as W&B's agents do: `--recipe.nesterov=True`, `--model.channels=[32, 64]`, and
    `--model={'latent': 16}` for several settings at once. Raises InputError, one line, for invalid arguments.
    """
    import tyro

    args = [word for arg in args for word in from_agent(arg, config_type)]
    saved = saved_config(config_type, args)
    all_args = [*saved.args, *args]
    panel = io.StringIO()
    try:
        with contextlib.redirect_stderr(panel):
            config, unknown = tyro.cli(
                config_type,
                args=all_args,
                description=description,
                return_unknown_args=True,
                config=(tyro.conf.SuppressFixed,),
                registry=registry(),
            )
    except (SystemExit, InputError) as stop:  # of the outermost constructor, some versions of tyro pass InputErrors on
        if isinstance(stop, SystemExit) and not stop.code:
            raise
        is_passed_on = isinstance(stop, InputError)
        message = str(stop) if is_passed_on else first_complaint(panel.getvalue(), config_type, all_args)
        complaint = with_flags(message, config_type, args)
        is_of_saved = saved.args and not is_of_command_line(complaint, args)
        raise InputError(saved.mismatch(complaint) if is_of_saved else complaint) from None
    if unknown and unknown[0] in saved.args:
        raise InputError(saved.mismatch(f"unknown option {unknown[0]}"))
    if unknown:
        raise InputError(unknown_option(unknown[0], list(flags(config_type))))
    return config


def parse_part(config_type: type[Config], config: dict[str, Any]) -> Config:
    """Build a dataclass from the values of a `config.json`, or of a part of it."""
    return parse(config_type, to_args(config_type, config))
