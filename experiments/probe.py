"""Linear probe, nearest neighbours and k-means on frozen codes.   python -m experiments.probe RUN..."""

from ae.cli import cli
from ae.commands.probe import Config, beside, main

__all__ = ["Config", "beside", "main"]

if __name__ == "__main__":
    cli(main)
