"""A comparison as text and as CSV."""

import csv
import io
from pathlib import Path

from ae.compare.comparison import Comparison, Group
from ae.compare.records import Record, shown
from ae.files import write_whole


def table(comparison: Comparison, each: bool = False) -> str:
    """A line for each group, the best first: what differs, how many runs, and their metrics, as mean ± deviation.

    With `each`, a line for each run instead. The best value of each metric has a star.
    """
    groups = comparison.groups
    if each:
        groups = [Group(group.settings, [run]) for group in groups for run in group.runs]
    best = comparison.best(groups)
    header = [*(["run"] if each else ["runs"]), *short_names(comparison.fields).values(), *comparison.metrics]
    rows = [header]
    for group in groups:
        count = group.runs[0].name if each else str(len(group.runs))
        state = describe_states(group.runs)
        settings = [shown(value) for value in group.settings.values()]
        metrics = [number(group, metric) + ("*" if group is best.get(metric) else " ") for metric in comparison.metrics]
        rows.append([f"{count} {state}".strip(), *settings, *metrics])
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def number(group: Group, metric: str) -> str:
    """The mean of a metric over a group's runs, with the standard deviation where there are several."""
    mean, std = group.mean(metric), group.std(metric)
    if mean is None:
        return "–"  # noqa: RUF001
    if std is None or (std == 0 and "/" not in metric):  # a size that is the same in all
        return form(metric, mean)
    return f"{form(metric, mean)} ± {f'{std:.2%}' if _is_share(metric) else f'{std:.2g}'}"


def form(metric: str, value: int | float) -> str:
    """A metric's value as a person reads it."""
    if _is_share(metric):
        return f"{value:.2%}"
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _is_share(metric: str) -> bool:
    return "accuracy" in metric.split("/")


def describe_states(runs: list[Record]) -> str:
    """What there is to say of runs that have not finished."""
    return ", ".join(f"{run.state} at step {run.step}" for run in runs if run.state != "finished")


def write_csv(comparison: Comparison, path: Path) -> None:
    """A row for each run: name, state, step, every field of the configuration, every metric; all as they are."""
    runs = comparison.runs
    fields = list(dict.fromkeys(name for run in runs for name in run.config))
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["name", "where", "state", "step", *fields, *metrics])
    for run in runs:
        values = [run.config.get(name) for name in fields]
        cells = [" ".join(map(str, value)) if isinstance(value, list) else value for value in values]
        writer.writerow([run.name, run.where, run.state, run.step, *cells, *(run.metrics.get(m) for m in metrics)])
    write_whole(path, text.getvalue().encode())


def short_names(fields: list[str]) -> dict[str, str]:
    """The last part of each field's name; all of it where two would be the same."""
    last = {field: field.rpartition(".")[2] for field in fields}
    return {field: short if list(last.values()).count(short) == 1 else field for field, short in last.items()}
