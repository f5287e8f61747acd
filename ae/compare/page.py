"""A comparison as one HTML file that needs no server and no network."""

import base64
import io
import json
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

from ae.compare.comparison import Comparison, Group
from ae.compare.records import shown
from ae.compare.table import describe_states, form, number, short_names
from ae.files import write_whole
from ae.metrics import higher_is_better
from ae.run_folder import Row

_CURVES = 100  # runs whose curves are drawn
_POINTS = 150  # of a curve
_PICTURES = 24  # groups whose reconstructions are shown


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page: what is best and by how much, all groups and runs, curves, what each field does, pictures.

    Curves are those of the 100 best runs, thinned to 150 points each; reconstructions those of the 24 best groups.
    """
    write_whole(path, render(comparison).encode())


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
        best=comparison.best(),
        number=number,
        form=form,
        states=describe_states,
        pictures=[(group, picture) for group in comparison.groups[:_PICTURES] if (picture := _picture(group))],
        data=json.dumps(_data(comparison), allow_nan=False).replace("<", "\\u003c"),
        script=files("ae.compare").joinpath("templates/page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def verdict(comparison: Comparison) -> str:
    """In a sentence: which group is best, and how far it is ahead of the next, in standard errors where there are."""
    metric, (first, *others) = comparison.sort, comparison.groups
    if first.mean(metric) is None:
        return f"No run has the metric {metric} yet."
    text = f"Best by {metric}: {first.name}, with {number(first, metric)}"
    measured = [group for group in others if group.mean(metric) is not None]
    if not measured:
        return f"{text}."
    second = measured[0]
    ahead = abs(float(first.mean(metric) or 0) - float(second.mean(metric) or 0))
    text += f"; the next, {second.name}, has {number(second, metric)}"
    errors = [(group.std(metric) or 0.0) / len(group.values(metric)) ** 0.5 for group in (first, second)]
    if not all(group.std(metric) is not None for group in (first, second)):
        return f"{text}. With one run of one of them, how much of that is chance can't be told."
    error = math.hypot(*errors)
    if ahead <= 2 * error:
        return (
            f"{text}: less apart than two standard errors of the difference ({form(metric, error)}): no clear winner."
        )
    return f"{text}: ahead by {ahead / error:.1f} standard errors of the difference."


def _data(comparison: Comparison) -> dict[str, Any]:
    """What the page's script draws from."""
    runs = comparison.runs
    of_run = [number for number, group in enumerate(comparison.groups) for _ in group.runs]
    return {
        "sort": comparison.sort,
        "higher": {metric: higher_is_better(metric) for metric in comparison.metrics},
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
                "metrics": [_finite(run.metrics.get(metric)) for metric in comparison.metrics],
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
    """The reconstructions of the group's first run that has some, small, as a data URL."""
    from PIL import Image

    content = next((run.picture for run in group.runs if run.picture), None)
    if content is None:
        return None
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as picture:
        picture.convert("RGB").save(buffer, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _plain(value: Any) -> Any:
    """A setting as an axis shows it: numbers as numbers, all else as text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else shown(value)


def _finite(value: int | float | None) -> float | None:
    """With five digits; None where it is no number."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None
