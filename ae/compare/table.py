"""A comparison as text and as CSV."""

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

from ae.compare.comparison import Comparison, Group
from ae.compare.records import Record, is_number, shown
from ae.evaluation.metrics import is_percentage
from ae.utils.errors import printable
from ae.utils.files import write_whole

_WIDEST = 60  # characters of a cell
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # with which a text begins that a spreadsheet executes


def table(comparison: Comparison, each: bool = False) -> str:
    """A line for each group, the best first: what differs, how many runs, and their metrics, as mean ± deviation.

    With `each`, a line for each run instead. `Comparison.stars` have a star; of a single run nothing can be told.
    """
    groups = comparison.groups
    if each:
        groups = [Group(group.settings, [run]) for group in groups for run in group.runs]
    header = [*(["run"] if each else ["runs"]), *short_names(comparison.fields).values(), *comparison.metrics]
    rows = [header]
    for group in groups:
        count = group.runs[0].name if each else str(len(group.runs))
        state = describe_states(group.runs)
        settings = [shown(value) for value in group.settings.values()]
        starred = {metric: "*" if comparison.has_star(group, metric) else " " for metric in comparison.metrics}
        metrics = [number(group, metric) + star for metric, star in starred.items()]
        rows.append([f"{count} {state}".strip(), *settings, *metrics])
    rows = [[_cell(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def number(group: Group, metric: str) -> str:
    """The mean of a metric over a group's seeds, with the standard deviation where there are several.

    Where only some of the runs have it, as a finite number, it says how many.
    """
    mean, std, count = group.mean(metric), group.std(metric), group.count(metric)
    if mean is None:
        return "–"  # noqa: RUF001
    some = f" ({count} of {len(group.runs)})" if count < len(group.runs) else ""
    if std is None or (std == 0 and "/" not in metric):  # a size that is the same in all
        return form(metric, mean) + some
    if is_percentage(metric):
        return f"{mean:.2%} ± {std:.2%}{some}"
    digits = 4 if std == 0 or mean == 0 else math.floor(math.log10(abs(mean))) - math.floor(math.log10(std)) + 2
    shown = form(metric, mean) if digits <= 4 else f"{mean:.{min(digits, 12)}g}"  # as far as the deviation reaches
    return f"{shown} ± {std:.2g}{some}"


def form(metric: str, value: int | float) -> str:
    """A metric's value as a person reads it."""
    if not is_number(value):
        return f"{value:g}" if isinstance(value, float) else "–"  # noqa: RUF001
    if is_percentage(metric):
        return f"{value:.2%}" if abs(value) < 1e6 else f"{value:.4g}"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _cell(text: str) -> str:
    """A text that keeps its line and a bearable width."""
    text = printable(text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def describe_states(runs: list[Record]) -> str:
    """Describe runs that have not finished."""
    return ", ".join(f"{run.state} at step {run.step}" for run in runs if run.state != "finished")


def write_csv(comparison: Comparison, path: Path) -> None:
    """A row for each run: name, state, step, every field of the configuration, every metric; all as they are.

    A text that a spreadsheet would execute has an apostrophe before it; numbers stay numbers.
    """
    runs = comparison.runs
    fields = list(dict.fromkeys(name for run in runs for name in run.config))
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(_csv_cell, ["name", "where", "state", "step", *fields, *metrics]))
    for run in runs:
        values = [run.config.get(name) for name in fields]
        measured = [run.metrics.get(name) for name in metrics]
        writer.writerow(map(_csv_cell, [run.name, run.where, run.state, run.step, *values, *measured]))
    write_whole(path, text.getvalue().encode(errors="backslashreplace"))


def _csv_cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _is_plain_number(text) else text


def _is_plain_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, flags=re.ASCII) is not None


def short_names(fields: list[str]) -> dict[str, str]:
    """The last part of each field's name; all of it where two would be the same."""
    last = {field: field.rpartition(".")[2] for field in fields}
    return {field: short if list(last.values()).count(short) == 1 else field for field, short in last.items()}
