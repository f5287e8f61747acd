"""A comparison as one HTML file that needs no server and no network."""

import base64
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from ae.compare.comparison import Comparison, Group
from ae.compare.records import Record, is_number, shown
from ae.compare.table import describe_states, form, number, short_names
from ae.compare.verdict import verdict
from ae.runs.folder import Row
from ae.utils.console import say
from ae.utils.errors import one_line, printable
from ae.utils.files import write_whole

_CURVES = 100  # runs whose curves are drawn
_POINTS = 150  # of a curve
_PICTURES = 24  # groups whose reconstructions are shown
_PIXELS = 20_000_000  # of such a picture


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page: what is best and whether that is settled, groups, runs, curves, what each field does, pictures.

    Curves are those of the 100 best runs, thinned to 150 points each; reconstructions those of the 24 best groups.
    """
    write_whole(path, render(comparison).encode(errors="backslashreplace"))


def render(comparison: Comparison) -> str:
    """The page's HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(loader=PackageLoader("ae.compare"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"shown": shown}
    return environment.get_template("page.html").render(
        comparison=comparison,
        verdict=verdict(comparison),
        names=short_names(comparison.fields),
        number=number,
        form=form,
        states=describe_states,
        pictures=[(group, picture) for group in comparison.groups[:_PICTURES] if (picture := _picture(group))],
        data=json.dumps(_data(comparison), allow_nan=False).replace("<", "\\u003c"),
        script=files("ae.compare").joinpath("templates/page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _data(comparison: Comparison) -> dict[str, Any]:
    """Data for the page's script."""
    runs = comparison.runs
    of_run = [number for number, group in enumerate(comparison.groups) for _ in group.runs]
    return {
        "sort": comparison.sort,
        "higher": {metric: comparison.higher_is_better(metric) for metric in comparison.metrics},
        "metrics": comparison.metrics,
        "fields": [{"name": name, "short": short} for name, short in short_names(comparison.fields).items()],
        "groups": [
            {
                "name": group.name,
                "settings": [_plain(value) for value in group.settings.values()],
                "means": [_finite(group.mean(metric)) for metric in comparison.metrics],
            }
            for group in comparison.groups
        ],
        "runs": [
            {
                "name": run.name,
                "group": of_run[i],
                "metrics": [_finite(run.value(metric)) for metric in comparison.metrics],
                "curves": _curves(run.history) if i < _CURVES else {},
            }
            for i, run in enumerate(runs)
        ],
    }


def _curves(history: list[Row]) -> dict[str, list[list[int | float | None]]]:
    """Each metric but those of single classes as [steps, values], thinned."""
    names = dict.fromkeys(key for row in history for key in row if key.count("/") == 1)
    curves: dict[str, list[list[int | float | None]]] = {}
    for name in names:
        points = [(row["step"], row[name]) for row in history if name in row]
        kept = (
            [points[i * (len(points) - 1) // (_POINTS - 1)] for i in range(_POINTS)]
            if len(points) > _POINTS
            else points
        )
        curves[name] = [[step for step, _ in kept], [_finite(value) for _, value in kept]]
    return curves


def _picture(group: Group) -> str | None:
    """The reconstructions of the group's first run that has some, small, as a data URL; a broken one is named."""
    return next((url for run in group.runs if (url := _picture_of(run)) is not None), None)


def _picture_of(run: Record) -> str | None:
    from PIL import Image

    if run.picture is None:
        return None
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(run.picture), formats=["PNG"]) as picture:
            if picture.width * picture.height > _PIXELS:
                raise ValueError(f"it has {picture.width} x {picture.height} pixels")
            picture.convert("RGB").save(buffer, "WEBP", quality=80)
    except Exception as error:  # decoders raise whatever the bytes lead them to
        say(printable(f"skipping the picture of {run.where}: {one_line(error)}"), error=True)
        return None
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _plain(value: Any) -> Any:
    """A setting as an axis shows it: numbers as numbers, all else as text."""
    return value if is_number(value) else shown(value)


def _finite(value: int | float | None) -> float | None:
    """With five digits; None where it is no number."""
    return float(f"{value:.5g}") if value is not None and is_number(value) else None
