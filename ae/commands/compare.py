"""Which of these runs is best, and why?   ae compare RUN... [--html PAGE]

RUN is a run's folder, a folder that holds such folders (runs/), a glob, or wandb:entity/project[/group].
Without options it prints a table: a line for each configuration, seeds taken together, the best first. Below stands
whether that is settled. A star marks the best of a column and what is not settled to be worse than it.
"""

from dataclasses import dataclass
from pathlib import Path

from ae.cli import Positional
from ae.compare import compare, read_runs, table, verdict, write_csv, write_page
from ae.utils.distributed import on_main
from ae.utils.errors import printable
from ae.utils.validation import Settings


@dataclass(frozen=True)
class Config(Settings):
    """Runs to compare, metrics, and files to write."""

    runs: Positional[tuple[str, ...]] = ("runs",)  # folders, globs, or wandb:entity/project[/group]
    sort: str | None = None  # metric that decides what is best (default: the sweep's, or else of the validation)
    metrics: tuple[str, ...] = ()  # metrics to show (default: of the test, code size, parameters, seconds)
    each: bool = False  # a line for each run, not for each configuration
    csv: Path | None = None  # write every field and metric of every run to this file
    html: Path | None = None  # write a page with curves, charts and reconstructions to this file


@on_main
def main(config: Config) -> None:
    """Print the table, and write what is asked for."""
    comparison = compare(read_runs(config.runs), config.metrics, config.sort)
    print(table(comparison, config.each))
    print(printable(str(verdict(comparison))))
    if config.csv is not None:
        write_csv(comparison, config.csv)
        print(f"csv  {config.csv}")
    if config.html is not None:
        write_page(comparison, config.html)
        print(f"look {config.html}")
