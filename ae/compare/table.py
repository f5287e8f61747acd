"""A comparison as text and as CSV."""

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

from ae.compare.comparison import Comparison
from ae.compare.groups import Group
from ae.compare.records import Record
from ae.compare.values import format_setting, is_finite
from ae.evaluation.metrics import is_percentage
from ae.utils.errors import printable
from ae.utils.files import write_whole

_MAX_WIDTH = 60  # characters of a cell
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # first characters of a text that a spreadsheet executes


def table(comparison: Comparison, each: bool = False) -> str:
    """Format a line for each group, best first: its settings, number of runs, and metrics as mean ± deviation.

    With `each`, format a line for each run instead. A star marks the `Comparison.stars`.
    """
    groups = comparison.groups
    if each:
        groups = [Group(group.settings, [run]) for group in groups for run in group.runs]
    header = [*(["run"] if each else ["runs"]), *short_names(comparison.fields).values(), *comparison.metrics]
    rows = [header]
    for group in groups:
        count = group.runs[0].name if each else str(len(group.runs))
        state = describe_states(group.runs)
        settings = [format_setting(value) for value in group.settings.values()]
        starred = {metric: "*" if comparison.has_star(group, metric) else " " for metric in comparison.metrics}
        metrics = [number(group, metric) + star for metric, star in starred.items()]
        rows.append([f"{count} {state}".strip(), *settings, *metrics])
    rows = [[_cell(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def number(group: Group, metric: str) -> str:
    """Format the mean of a metric over seeds, with the standard deviation of several.

    Adds the number of runs with a finite value where others have none.
    """
    mean, std, count = group.mean(metric), group.std(metric), group.count(metric)
    if mean is None:
        return "–"  # noqa: RUF001
    some = f" ({count} of {len(group.runs)})" if count < len(group.runs) else ""
    if std is None or (std == 0 and "/" not in metric):  # a constant cost
        return form(metric, mean) + some
    if is_percentage(metric):
        return f"{mean:.2%} ± {std:.2%}{some}"
    digits = 4 if std == 0 or mean == 0 else math.floor(math.log10(abs(mean))) - math.floor(math.log10(std)) + 2
    shown = form(metric, mean) if digits <= 4 else f"{mean:.{min(digits, 12)}g}"  # digits down to the deviation's
    return f"{shown} ± {std:.2g}{some}"


def form(metric: str, value: int | float) -> str:
    """Format a value of a metric for people."""
    if not is_finite(value):
        return f"{value:g}" if isinstance(value, float) else "–"  # noqa: RUF001
    if is_percentage(metric):
        return f"{value:.2%}" if abs(value) < 1e6 else f"{value:.4g}"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _cell(text: str) -> str:
    """Escape line breaks and truncate a text."""
    text = printable(text)
    return text if len(text) <= _MAX_WIDTH else text[: _MAX_WIDTH - 1] + "…"


def describe_states(runs: list[Record]) -> str:
    """Describe the state of each unfinished run."""
    return ", ".join(f"{run.state} at step {run.step}" for run in runs if run.state != "finished")


def write_csv(comparison: Comparison, path: Path) -> None:
    """Write a row for each run: name, state, step, every field of the configuration, and every metric.

    Values are unrounded. A text that a spreadsheet would execute is prefixed by an apostrophe.
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
    """Shorten each field to the last part of its name where that is unique."""
    short = {field: field.rpartition(".")[2] for field in fields}
    return {field: name if list(short.values()).count(name) == 1 else field for field, name in short.items()}
