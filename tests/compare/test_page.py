"""The HTML page of a comparison, as text and in a browser."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from plotly.offline import get_plotlyjs

from ae.compare import compare, verdict, write_page
from ae.compare.page import render
from experiments.compare import Config, main
from tests.helpers.compared import make_run, record

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of three codes with two seeds each, and a stopped run."""
    folder = tmp_path_factory.mktemp("compared")
    for latent, accuracy in ((4, 0.9), (16, 0.95), (64, 0.99)):
        for seed in (0, 1):
            metrics = {"test/accuracy": accuracy + seed / 1000, "test/mse": 0.1 / latent, "code_size": float(latent)}
            make_run(folder / f"runs/{latent}-{seed}", metrics, seed, latent)
    make_run(folder / "runs/half", latent=8, steps=2)
    main(Config(runs=(str(folder / "runs"),), sort="test/accuracy", html=folder / "page.html"))
    return folder / "page.html"


def data_of(html: str) -> dict[str, list[dict[str, object]]]:
    script = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, flags=re.DOTALL)
    assert script is not None
    return json.loads(script[1])


def test_write_page_includes_runs_groups_curves_and_pictures(page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    data = data_of(html)
    assert len(data["runs"]) == 7
    assert len(data["groups"]) == 4
    assert data["groups"][0]["settings"] == [64]
    assert data["runs"][0]["curves"]["val/mse"] == [[1, 2, 3], [0.1, 0.05, 0.033333]]  # type: ignore[index]
    assert "val/accuracy/3" not in data["runs"][0]["curves"]  # type: ignore[operator]
    picture = "data:image/webp;base64,"  # some releases of plotly contain pictures
    assert html.count(picture) - get_plotlyjs().count(picture) == 3


def test_render_escapes_names_and_settings() -> None:
    bad = "</script><script>alert(1)</script>"
    html = render(compare([record(bad, {"test/mse": 1.0}, a=bad), record("b", {"test/mse": 2.0}, a="b")]))
    assert bad not in html
    assert data_of(html)["runs"][0]["name"] == bad


@pytest.mark.slow
def test_write_page_of_100_runs_is_below_10_mb(tmp_path: Path) -> None:
    """Each run has the rows of 50 epochs, with as many metrics as the joint experiment logs."""
    history = [
        {
            "step": step,
            "epoch": step / 9,
            **{f"{split}/metric{i}": step / 7 + i for split in ("train", "val") for i in range(8)},
        }
        for step in range(450)
    ]
    runs = [record(str(i), {"test/mse": float(i)}, a=i) for i in range(100)]
    for run in runs:
        run.history.extend(history)
    write_page(compare(runs), tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 10e6
    assert len(data_of((tmp_path / "page.html").read_text())["runs"][0]["curves"]["val/metric1"][0]) == 150  # type: ignore[index]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"a": [0.9, 0.913], "b": [0.5, 0.51]},
            "Settled: best by val/accuracy is code a, with 90.65% ± 0.92%; the next code b has 50.50% ± 0.71%: ahead "
            "by 40.15% (95 % interval 38.24% to 42.06%, paired t-test with 1 degree of freedom, p = 0.0024).",
        ),
        (
            {"a": [0.9, 0.92], "b": [0.89, 0.913]},
            "Not settled: best by val/accuracy is code a, with 91.00% ± 1.41%; the next code b has 90.15% ± 1.63%: "
            "ahead by 0.85% (95 % interval -1.06% to 2.76%, paired t-test with 1 degree of freedom, p = 0.11). 1 more "
            "seed of each would be needed, if the difference is as measured.",
        ),
        (
            {"a": [0.9], "b": [0.5]},
            "Can't be told: best by val/accuracy is code a, with 90.00%; the next code b has 50.00%: one of the two "
            "has a single seed, so the difference can't be tested. Run two or more seeds of each.",
        ),
        (
            {"a": [0.9, 0.91]},
            "Can't be told: best by val/accuracy is r0, with 90.50% ± 0.71% (95 % interval 84.15% to 96.85%); no "
            "other configuration has this metric.",
        ),
    ],
)
def test_verdict_is_of_three_kinds(values: dict[str, list[float]], text: str) -> None:
    runs = [
        record(f"r{i}", {"val/accuracy": value}, code=name, recipe__seed=i)
        for name, accuracies in values.items()
        for i, value in enumerate(accuracies)
    ]
    assert str(verdict(compare(runs))) == text


@pytest.fixture(scope="module")
def browser_page(page_file: Path) -> Iterator["Page"]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith("data:") else requested.append(request.url))
        errors: list[str] = []
        requested: list[str] = []
        page.goto(page_file.as_uri())
        page.wait_for_selector("body[data-drawn=yes]", timeout=20_000)
        yield page
        assert errors == []
        assert requested == [page_file.as_uri()]  # nothing else is loaded
        browser.close()


def traces(page: "Page", chart: str) -> list[dict[str, object]]:
    return page.evaluate(
        f"document.getElementById('{chart}').data.map(({{name, opacity, y}}) => ({{name, opacity, y}}))"
    )


def test_page_draws_every_chart(browser_page: "Page") -> None:
    assert len(traces(browser_page, "curves")) == 7
    assert len(traces(browser_page, "parallel")) == len(traces(browser_page, "scatter")) == 4
    for chart in ("curves", "parallel", "scatter"):
        assert browser_page.locator(f"#{chart} svg.main-svg").count() > 0
        assert browser_page.locator(f"#{chart} .trace").count() >= 3
    pictures = browser_page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert pictures == [90, 90, 90]
    assert "latent 64" in browser_page.locator(".verdict").inner_text()
    assert "stopped at step 2" in browser_page.locator("#runs").inner_text()


def test_page_changes_the_metric_of_a_chart(browser_page: "Page") -> None:
    browser_page.select_option("#curve", "train/loss")
    assert traces(browser_page, "curves")[0]["y"] in ([1, 0.5], [1, 0.5, 0.33333])
    browser_page.select_option("#x", "code_size")
    shown = browser_page.evaluate("document.getElementById('scatter').data.map((trace) => trace.x)")
    assert sorted(map(tuple, shown)) == [(), (4, 4), (16, 16), (64, 64)]


def test_page_highlights_a_clicked_row_and_sorts_by_a_clicked_header(browser_page: "Page") -> None:
    row = browser_page.locator("#groups tr[data-group='1']")
    row.click()
    bright = {trace["name"] for trace in traces(browser_page, "curves") if trace["opacity"] == 1}
    assert bright == {"latent 16"}
    assert browser_page.locator("#runs tr.chosen").count() == 2
    row.click()
    assert all(trace["opacity"] == 1 for trace in traces(browser_page, "curves"))
    browser_page.locator("#groups th", has_text="latent").click()
    first = browser_page.locator("#groups tbody tr").first
    assert first.locator(".setting").inner_text() == "4"
    browser_page.locator("#groups th", has_text="test/accuracy").click()
    assert first.locator(".setting").inner_text() == "64"
