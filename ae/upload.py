"""Upload what W&B's server lacks of an ended run.   python -m ae.upload --run FOLDER"""

from ae.cli import cli
from ae.commands.upload import Config, main

__all__ = ["Config", "main"]

if __name__ == "__main__":
    cli(main)
