"""Which of these runs is best, and why?   python -m experiments.compare RUN... [--html PAGE]"""

from ae.cli import cli
from ae.commands.compare import Config, main

__all__ = ["Config", "main"]

if __name__ == "__main__":
    cli(main)
