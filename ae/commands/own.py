"""Modules of the user's own, named on a command line as `package:function`."""

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import nn

from ae.models.autoencoder import Autoencoder
from ae.utils.errors import InputError, one_line
from ae.utils.validation import Settings
from ae.weights import UnknownClassError, load


@dataclass(frozen=True, kw_only=True)
class OwnModules(Settings):
    """Functions that build the modules of a model that are not of `ae`: `package:function`, called without arguments.

    Packages are found in the working directory, as `python -m` finds them, and where Python is installed.
    """

    encoder: str | None = None  # package:function that builds the encoder, if it is your own
    bottleneck: str | None = None  # of the bottleneck
    decoder: str | None = None  # of the decoder
    likelihood: str | None = None  # of the likelihood
    heads: Mapping[str, str] | None = None  # of heads, by name

    def load(self, path: str) -> Autoencoder:
        """Load a model as `ae.load`, with the modules that are given."""
        parts = {name: _built(name, getattr(self, name)) for name in ("encoder", "bottleneck", "decoder", "likelihood")}
        heads = {name: module for name, path in (self.heads or {}).items() if (module := _built("heads", path))}
        try:
            return load(path, heads=heads, **parts)
        except UnknownClassError as error:
            field = error.part if error.part in parts else "heads"
            message = str(error).split(": give it")[0]
            raise InputError(f"{message}: give it by Config.{field}, as package:function") from error


def _built(field: str, path: str | None) -> nn.Module | None:
    """Import a function and call it; raises InputError that names the flag where it gives no module."""
    if path is None:
        return None
    package, _, function = path.partition(":")
    if not package or not function:
        raise InputError(f"Config.{field} must be package:function, such as my.networks:make_encoder, got {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        build: Any = reduce(getattr, function.split("."), importlib.import_module(package))
        module = build()
    except Exception as error:  # of the user's code
        raise InputError(f"Config.{field} {path} fails: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"Config.{field} {path} must give an nn.Module, gave {type(module).__name__}")
    return module
