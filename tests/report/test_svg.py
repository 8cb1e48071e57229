import re
from xml.etree import ElementTree

import pytest

from thalweg.race.records import RaceResult
from thalweg.report.canvas import Plot, drawing
from thalweg.report.figures import all_figures, metric_curves
from thalweg.report.palette import VARIABLES
from thalweg.report.svg import hover_data, inline_svg

ALLOWED = {"svg", "title", "desc", "g", "defs", "path", "use", "text", "clipPath", "rect"}


def hover(plot: Plot) -> list[tuple[float, float, int, str]]:
    fields = [line.split("\t") for line in hover_data(plot).splitlines()]
    return [(float(x), float(y), int(slot), text) for x, y, slot, text in fields]


@pytest.fixture(scope="module")
def drawn(race: RaceResult) -> list[tuple[str, ElementTree.Element, str]]:
    return [(p.key, ElementTree.fromstring(s := str(inline_svg(p))), s) for p in all_figures(race)]


def test_only_drawing_elements_remain(drawn: list[tuple[str, ElementTree.Element, str]]) -> None:
    for key, root, _ in drawn:
        assert {e.tag for e in root.iter()} <= ALLOWED, key
        assert not [a for e in root.iter() for a in e.attrib if a.startswith("on")]


def test_readers_who_can_not_see_it_get_title_and_description(
    drawn: list[tuple[str, ElementTree.Element, str]],
) -> None:
    for _, root, _ in drawn:
        assert root.get("role") == "img"
        named = {e.get("id"): e.text for e in root if e.tag in ("title", "desc")}
        assert [bool(named[i]) for i in root.get("aria-labelledby", "").split()] == [True, True]


def test_references_stay_inside_and_ids_are_unique(drawn: list[tuple[str, ElementTree.Element, str]]) -> None:
    seen: set[str] = set()
    for key, root, text in drawn:
        ids = [e.get("id") for e in root.iter() if e.get("id")]
        assert len(set(ids)) == len(ids) and not seen & set(ids), key
        seen |= set(ids)  # type: ignore[arg-type]
        assert {r for r in re.findall(r'(?:href="#|url\(#)([^")]+)', text)} <= set(ids)


def test_colours_are_the_page_s(drawn: list[tuple[str, ElementTree.Element, str]]) -> None:
    for key, _, text in drawn:
        assert not re.findall(r"#[0-9a-f]{6}\b", text), key
        assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= set(VARIABLES.values())
        assert "font-family" not in text


def test_titles_and_legends_are_left_to_the_page(race: RaceResult) -> None:
    plot = metric_curves(race)
    root = ElementTree.fromstring(str(inline_svg(plot)))
    texts = [e.text for e in root.iter("text")]
    assert plot.title not in texts and "muon" not in texts and "step" in texts
    assert {e.get("data-r") for e in root.iter() if e.get("data-r")} == {str(i) for i in range(6)}


def test_hover_points_lie_on_the_plot(race: RaceResult) -> None:
    for plot in all_figures(race):
        points = hover(plot)
        assert points and all(-5 <= x <= 425 and 25 <= y <= 30 + plot.body for x, y, _, _ in points), plot.key


def test_a_hover_point_is_where_the_marker_is(race: RaceResult) -> None:
    plot = metric_curves(race)
    root = ElementTree.fromstring(str(inline_svg(plot)))
    markers = [
        (float(u.get("x", "nan")), float(u.get("y", "nan")))
        for g in root.iter("g")
        if g.get("data-r") == "1"
        for u in g.iter("use")
    ]
    mine = {(x, y) for x, y, slot, _ in hover(plot) if slot == 1}
    assert markers and all(min(abs(x - a) + abs(y - b) for a, b in mine) < 0.3 for x, y in markers)


def test_texts_can_not_break_out() -> None:
    with drawing():
        plot = Plot("k", "</title><script>alert(1)</script>$x$", 100)
        plot.panel(10, 10, 300, 60).set_xlabel("<script>alert(2)</script> & $\\frac$")
        plot.description = "]]><img src=x onerror=alert(3)>"
    text = str(inline_svg(plot))
    assert "<script" not in text and "<img" not in text and "&lt;script&gt;alert(2)" in text and "$\\frac$" in text
