"""Push a model to the Hugging Face Hub.   python -m ae.push RUN user/name"""

from ae.cli import cli
from ae.commands.push import Config, main

__all__ = ["Config", "main"]

if __name__ == "__main__":
    cli(main)
