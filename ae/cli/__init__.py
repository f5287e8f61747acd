"""Command lines from dataclasses; the only package that imports tyro."""

from ae.cli.arguments import Positional, flags, to_args
from ae.cli.main import cli
from ae.cli.parser import parse, parse_part

__all__ = ["Positional", "cli", "flags", "parse", "parse_part", "to_args"]
