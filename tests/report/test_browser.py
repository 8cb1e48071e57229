"""The report in a real browser: headless Chromium, from a file, at desk and phone width."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thalweg.race.records import RaceResult
from thalweg.report import write_report

pytestmark = pytest.mark.service

SIZES = {"desk": (1280, 800), "phone": (390, 844)}
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]

DRAWN = """() => [...document.querySelectorAll(".canvas")].filter(c => c.checkVisibility()).map(c => {
    const box = c.querySelector("svg").getBoundingClientRect();
    const marks = [...c.querySelectorAll("svg [data-r] path, svg path[data-r], svg [data-r] use, svg use[data-r]")];
    const seen = marks.filter(m => { const b = m.getBoundingClientRect(); return b.width + b.height > 1; });
    return {id: c.closest("figure").id, width: box.width, height: box.height, right: box.right, marks: seen.length};
})"""


@pytest.fixture(scope="module")
def browser(require_service: Callable[[object, str], None]) -> Iterator[Any]:
    path = shutil.which("chromium")
    require_service(path, "chromium is not installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file at a size; fails at the end on any console error, page error or request for anything but the file."""
    contexts, trouble = [], []

    def opened(path: Path, size: str = "desk", **options: Any) -> Any:
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda request: trouble.append(request.url) if request.url != path.as_uri() else None)
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def open_folds(page: Any) -> None:
    for fold in page.query_selector_all("details:not([open]) > summary"):
        fold.click()


@pytest.mark.parametrize("scripts", [True, False], ids=["with-js", "without-js"])
@pytest.mark.parametrize("size", SIZES)
def test_every_plot_is_drawn(visit: Callable[..., Any], race_report: Path, size: str, scripts: bool) -> None:
    page = visit(race_report, size, java_script_enabled=scripts)
    open_folds(page)
    plots = page.evaluate(DRAWN)
    expected = {"steps-ratio", "seconds-ratio", "metric-steps", "metric-seconds", "train-loss", "final-metric", "step-time",
                "memory", *(f"tuning-{i}" for i in range(6))}  # fmt: skip
    assert {plot["id"] for plot in plots} == expected and len(plots) == len(expected)
    for plot in plots:
        assert plot["width"] > 300 and plot["height"] > 80 and plot["marks"] >= 5, plot
        assert plot["right"] <= SIZES[size][0], plot


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_does_not_scroll_sideways(
    visit: Callable[..., Any], race_report: Path, size: str, scheme: str
) -> None:
    page = visit(race_report, size, color_scheme=scheme)
    open_folds(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, paper[4:-1].split(","))) / 3
    assert lightness > 200 if scheme == "light" else lightness < 60


def test_a_click_on_a_name_hides_the_recipe_everywhere(visit: Callable[..., Any], race_report: Path) -> None:
    page = visit(race_report)
    button = page.locator(".key button", has_text="lion")
    slot = button.get_attribute("data-slot")
    # An SVG group counts as visible for checkVisibility() even where it is not displayed, so its box is asked.
    count = "[...document.querySelectorAll('#metric-steps .d1 [data-r=\"%s\"]')].filter(e => e.getBoundingClientRect().width).length"
    shown, others = count % slot, count % 0
    before, rest = page.evaluate(shown), page.evaluate(others)
    assert before >= 2 and rest >= 2
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate(shown) == 0 and page.evaluate(others) == rest
    assert page.evaluate(f"document.querySelectorAll('.canvas [data-r=\"{slot}\"]:not(.off)').length") == 0
    button.click()
    assert button.get_attribute("aria-pressed") == "true" and page.evaluate(shown) == before


@pytest.mark.parametrize("scripts", [True, False], ids=["with-js", "without-js"])
def test_the_scale_can_be_switched(visit: Callable[..., Any], race_report: Path, scripts: bool) -> None:
    page = visit(race_report, java_script_enabled=scripts)
    figure = page.locator("#metric-steps")
    assert figure.locator(".d1").is_visible() and not figure.locator(".d2").is_visible()
    figure.locator("label", has_text="Logit").click()
    assert figure.locator(".d2").is_visible() and not figure.locator(".d1").is_visible()


def test_pointing_at_a_curve_tells_its_value(visit: Callable[..., Any], race_report: Path) -> None:
    page = visit(race_report)
    canvas = page.locator("#metric-steps .d1")
    canvas.scroll_into_view_if_needed()
    line = canvas.get_attribute("data-hover").split("\n")[10]
    x, y, slot, text = line.split("\t")
    screen = """([x, y]) => {
        const matrix = document.querySelector("#metric-steps .d1 svg").getScreenCTM();
        const point = new DOMPoint(x, y).matrixTransform(matrix);
        return [point.x, point.y];
    }"""
    place = page.evaluate(screen, [float(x), float(y)])
    page.mouse.move(*place)
    tip = page.locator(".tip")
    assert tip.is_visible() and text in tip.inner_text()
    assert page.locator(f'.key button[data-slot="{slot}"]').get_attribute("title") in tip.inner_text()
    page.mouse.move(2, 2)
    assert not tip.is_visible()


@pytest.mark.parametrize("name", ["twenty recipes", "all killed", "long messages", "strange values"])
def test_edge_cases_on_a_phone(visit: Callable[..., Any], edge_report: Callable[[str], Path], name: str) -> None:
    page = visit(edge_report(name), "phone")
    open_folds(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert all(plot["width"] > 300 and plot["height"] > 40 for plot in page.evaluate(DRAWN))


def test_nasty_texts_are_shown_and_never_run(
    visit: Callable[..., Any], races: dict[str, RaceResult], tmp_path: Path
) -> None:
    import dataclasses

    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    old = races["no tuning"]
    rows = [dataclasses.replace(row, name=row.name + nasty) for row in old.recipes]
    runs = [dataclasses.replace(run, recipe=run.recipe + nasty) for run in old.runs]
    result = dataclasses.replace(old, task=nasty, metric_name=nasty, baseline=rows[0].name, recipes=rows, runs=runs)
    page = visit(write_report(result, tmp_path / "nasty.html"))
    assert nasty in page.locator(".crumb").inner_text()
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1
