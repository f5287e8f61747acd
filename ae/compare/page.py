"""A comparison as a self-contained HTML file."""

import base64
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ae.compare.comparison import Comparison
from ae.compare.groups import Group
from ae.compare.records import Record
from ae.compare.statistics import LEVEL
from ae.compare.table import describe_states, form, number, short_names
from ae.compare.values import format_setting, is_finite
from ae.compare.verdict import verdict
from ae.evaluation.metrics import is_plain
from ae.tracking.row_log import Row
from ae.utils.console import say
from ae.utils.errors import one_line, printable
from ae.utils.files import write_whole

_MAX_CURVES = 100  # runs with curves
_MAX_POINTS = 150  # of a curve
_MAX_PICTURES = 24  # groups with reconstructions
_MAX_PIXELS = 20_000_000  # of a picture


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page: verdict, groups, runs, curves, effects of settings, and reconstructions.

    Curves of the 100 best runs are thinned to 150 points. Reconstructions are those of the 24 best groups.
    """
    write_whole(path, render(comparison).encode(errors="backslashreplace"))


def render(comparison: Comparison) -> str:
    """Render the page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=PackageLoader("ae.compare"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"format_setting": format_setting}
    return environment.get_template("page.html").render(
        comparison=comparison,
        verdict=verdict(comparison),
        level=f"{LEVEL:.0%}".replace("%", " %"),
        names=short_names(comparison.fields),
        number=number,
        form=form,
        states=describe_states,
        pictures=[(group, picture) for group in comparison.groups[:_MAX_PICTURES] if (picture := _picture(group))],
        data=json.dumps(_data(comparison), allow_nan=False).replace("<", "\\u003c"),
        script=files("ae.compare").joinpath("templates/page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _data(comparison: Comparison) -> dict[str, Any]:
    """Collect the data of the page's script."""
    runs = comparison.runs
    group_of_run = [number for number, group in enumerate(comparison.groups) for _ in group.runs]
    return {
        "sort": comparison.sort,
        "higher": {metric: comparison.higher_is_better(metric) for metric in comparison.metrics},
        "metrics": comparison.metrics,
        "fields": [{"name": name, "short": short} for name, short in short_names(comparison.fields).items()],
        "groups": [
            {
                "name": group.name,
                "settings": [_plain(value) for value in group.settings.values()],
                "means": [_rounded(group.mean(metric)) for metric in comparison.metrics],
            }
            for group in comparison.groups
        ],
        "runs": [
            {
                "name": run.name,
                "group": group_of_run[i],
                "metrics": [_rounded(run.value(metric)) for metric in comparison.metrics],
                "curves": _curves(run.history) if i < _MAX_CURVES else {},
            }
            for i, run in enumerate(runs)
        ],
    }


def _curves(history: list[Row]) -> dict[str, list[list[int | float | None]]]:
    """Return [steps, values] of each metric but those of single classes, thinned."""
    names = dict.fromkeys(key for row in history for key in row if is_plain(key))
    curves: dict[str, list[list[int | float | None]]] = {}
    for name in names:
        points = [(row["step"], row[name]) for row in history if name in row]
        if len(points) > _MAX_POINTS:
            points = [points[i * (len(points) - 1) // (_MAX_POINTS - 1)] for i in range(_MAX_POINTS)]
        curves[name] = [[step for step, _ in points], [_rounded(value) for _, value in points]]
    return curves


def _picture(group: Group) -> str | None:
    """Return the first reconstructions of a group's runs as a data URL; None without any."""
    return next((url for run in group.runs if (url := _picture_of(run)) is not None), None)


def _picture_of(run: Record) -> str | None:
    """Compress a run's reconstructions to WebP; reports a broken picture on stderr."""
    from PIL import Image

    if run.picture is None:
        return None
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(run.picture), formats=["PNG"]) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels")
            picture.convert("RGB").save(buffer, "WEBP", quality=80)
    except Exception as error:  # decoders may raise anything
        say(printable(f"skipping the picture of {run.where}: {one_line(error)}"), error=True)
        return None
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _plain(value: Any) -> Any:
    """Return a setting as an axis takes it: a number, or else text."""
    return value if is_finite(value) else format_setting(value)


def _rounded(value: int | float | None) -> float | None:
    """Round to five digits; None unless finite."""
    return float(f"{value:.5g}") if value is not None and is_finite(value) else None
