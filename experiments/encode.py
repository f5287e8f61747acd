"""Codes, predictions and reconstructions of any images.   python -m experiments.encode RUN --to FOLDER"""

from ae.cli import cli
from ae.commands.encode import Config, main

__all__ = ["Config", "main"]

if __name__ == "__main__":
    cli(main)
