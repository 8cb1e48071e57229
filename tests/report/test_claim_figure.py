from __future__ import annotations

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Result, Role, Verdict
from thalweg.report.claim_figure import charts, draw, thumbnail
from thalweg.report.claim_series import band_words, series_of
from thalweg.report.palette import SERIES

PANEL = Panel("p", "A panel", "step", "loss (nats)")
SVG = "{http://www.w3.org/2000/svg}"


def result(*seeds: Sequence[Curve]) -> Result:
    measurements = tuple(Measurement({"n": 1.0}, tuple(curves)) for curves in seeds)
    return Result("a-paper", "smoke", "rule", measurements, tuple(range(len(seeds))), Verdict("reproduced", "1 is 1"))


def line(
    y: Sequence[float], x: Sequence[float] = (), label: str = "net", role: Role = "measured", panel: str = "p"
) -> Curve:
    return Curve(panel, label, tuple(x) or tuple(range(1, len(y) + 1)), tuple(y), role)


def test_lines_are_medians_and_bands_over_seeds() -> None:
    found = result([line([1, 4, 9])], [line([3, 4, 5])], [line([2, 1, 7])])
    (series,) = series_of(found, PANEL)
    assert series.curve is not None and series.curve.runs == 3
    assert series.curve.median.tolist() == [2, 4, 7]
    assert series.curve.low.tolist() == [1, 1, 5] and series.curve.high.tolist() == [3, 4, 9]
    assert band_words(found) == "Lines are medians over 3 seeds, bands reach from the smallest to the largest."
    many = result(*([line([float(i)] * 2)] for i in range(12)))
    (series,) = series_of(many, PANEL)
    assert series.curve is not None and (series.curve.low[0], series.curve.high[0]) == (2.75, 8.25)
    assert "quartiles" in band_words(many) and "One seed" in band_words(result([line([1, 2])]))


def test_seeds_with_other_x_are_compared_where_both_are() -> None:
    # y = x for one seed and y = x + 2 for the other, measured at other places.
    one, two = line([0, 1, 2, 4], [0, 1, 2, 4]), line([3, 5, 7], [1, 3, 5])
    (series,) = series_of(result([one], [two]), PANEL)
    assert series.curve is not None
    inside = (series.curve.steps >= 1) & (series.curve.steps <= 4)
    np.testing.assert_allclose(series.curve.median[inside], series.curve.steps[inside] + 1)
    assert series.curve.steps.tolist() == [0, 1, 2, 3, 4, 5]  # half of the seeds are enough


def test_other_x_on_a_logarithmic_axis_are_joined_as_straight_lines_there() -> None:
    (series,) = series_of(
        result([line([0, 2], [1, 100])], [line([0, 1, 2], [1, 10, 100])]), Panel("p", "A panel", "width", "y", "x")
    )
    assert series.curve is not None
    np.testing.assert_allclose(series.curve.median, [0, 1, 2], atol=1e-12)


def test_lines_from_right_to_left_are_lines_too() -> None:
    (series,) = series_of(result([line([4, 2, 1], [4, 2, 1])], [line([2, 1], [2, 1])], [line([2, 1], [2, 1])]), PANEL)
    assert series.curve is not None and series.curve.steps.tolist() == [1, 2]  # only one seed in three got to 4
    assert series.curve.median.tolist() == [1, 2]


def test_lines_that_turn_back_are_drawn_seed_by_seed() -> None:
    (series,) = series_of(result([line([0, 1, 2], [0, 1, 0.5])], [line([0, 1, 2], [0, 2, 1])]), PANEL)
    assert series.curve is None and len(series.single) == 2 and not series.look.marker
    svg = draw(result([line([0, 1, 2], [0, 1, 0.5])], [line([0, 1, 2], [0, 2, 1])]), (PANEL,))
    assert "net, each seed" in texts(svg)


def test_roles_are_told_apart_by_dashes_and_lines_by_markers() -> None:
    curves = [line([1, 2], label=label, role=role) for label in "ab" for role in ("measured", "theory")]
    found = series_of(result([*curves, line([1, 1], label="c", role="control")]), PANEL)  # type: ignore[list-item]
    looks = {(s.label, s.role): s.look for s in found}
    assert looks["a", "measured"].dashes == () and looks["a", "theory"].dashes != looks["c", "control"].dashes != ()
    assert looks["a", "measured"].marker == looks["a", "theory"].marker != looks["b", "theory"].marker
    assert looks["a", "theory"].hollow and not looks["a", "measured"].hollow
    assert looks["a", "theory"].colour == looks["b", "theory"].colour == SERIES[0]
    assert len({looks[key].colour for key in (("a", "measured"), ("b", "measured"), ("c", "control"))}) == 3


def test_a_label_looks_the_same_in_every_panel() -> None:
    found = result([line([1, 2], label="a"), line([1, 2], label="b"), line([1, 2], label="b", panel="q")])
    second = series_of(found, Panel("q", "Q", "x", "y"))[0]
    assert second.look == series_of(found, PANEL)[1].look


def test_labels_that_share_no_panel_may_share_a_colour() -> None:
    found = result([line([1, 2], label=f"{panel}{i}", panel=panel) for panel in "pqrs" for i in range(4)])
    for key in "pqrs":
        looks = [series.look for series in series_of(found, Panel(key, "", "", ""))]
        assert len({look.colour for look in looks}) == 4 and {look.index for look in looks} == set(range(4))


def test_a_single_value_of_theory_is_seen() -> None:
    svg = draw(result([line([1.0], [3.0], role="theory"), line([2.0], [3.0], label="net")]), (PANEL,))
    assert "h40" in svg


def test_a_line_that_explodes_does_not_flatten_the_others() -> None:
    calm = line([4.0, 3.0, 2.0, 1.0, 0.5], label="calm")
    wild = line([4.0, 40.0, 1e9], label="wild", role="control")
    for log in ("", "y"):
        panel = Panel("p", "A panel", "step", "loss", log)  # type: ignore[arg-type]
        svg = draw(result([calm, wild]), (panel,))
        assert (
            "cut off where it explodes" in svg
            and "1e9" not in texts(svg)
            and "wild (control): 4.00 at 1.00 to 1e9 at 3.00" in svg
        )
        heights = [
            float(y)
            for d in re.findall(r' d="(M[^"]+)" style="fill:none;stroke:#', svg)
            for y in re.findall(r"[ML][\d.]+ ([-\d.]+)", d)
        ]
        assert min(heights) == 26  # the top of the frame, which the wild line meets
        ends = draw(result([calm, line([4.0, 3.0, 2.0], label="wild")]), (panel,))
        assert "cut off" not in ends and "cut off" not in draw(result([wild]), (panel,))
    mild = line([4.0, 6.0], label="mild")  # breaks off at its highest value, but near the others
    assert "cut off" not in draw(result([calm, mild]), (PANEL,))


def test_the_legend_says_the_role_once() -> None:
    same = [line([1, 2], label="mode"), line([1, 2], label="mode", role="theory")]
    assert texts(draw(result(same), (PANEL,))).count("theory") == 1
    other = [
        line([1, 2], label="mode"),
        line([1, 2], label="1/n", role="theory"),
        line([1, 2], label="sgd", role="control"),
    ]
    shown = texts(draw(result(other), (PANEL,)))
    assert "1/n (theory)" in shown and "sgd (control)" in shown and "mode" in shown
    assert "theory of it" in texts(draw(result([line([1, 2], label="theory of it", role="theory")]), (PANEL,)))


def test_the_file_is_one_accessible_svg_in_colours_of_its_own() -> None:
    svg = draw(result([line([1, 2], label="<b>&amp;")], [line([2, 2], label="<b>&amp;")]), (PANEL, PANEL))
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    names = (root.get("aria-labelledby") or "").split()
    assert [root.find(f".//*[@id='{name}']").tag for name in names] == [f"{SVG}title", f"{SVG}desc"]  # type: ignore[union-attr]
    described = root.findtext(f"{SVG}desc") or ""
    assert "loss (nats) against step" in described and "<b>&amp; (measured): 1.50 at 1.00 to 2.00 at 2.00" in described
    assert "var(" not in svg and "<b>" not in svg and "NaN" not in svg and "nan" not in svg
    assert {"A panel", "step", "loss (nats)"} <= set(texts(svg))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert draw(result([line([1, 2])]), (PANEL,)) == draw(result([line([1, 2])]), (PANEL,))


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
def test_values_that_an_axis_cannot_show_are_gaps(log: str) -> None:
    panel = Panel("p", "A panel", "x", "y", log)  # type: ignore[arg-type]
    curve = line([math.inf, 1e-9, 0.0, -1.0, 1e3, math.nan], [-1, 0, 1, 2, 3, 4])
    svg = draw(result([curve], [curve]), (panel,))
    assert not re.search(r"\b(nan|inf)\b", svg)
    ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    "curves", [[], [line([math.inf, math.nan])], [line([0.0, 0.0])], [line([5.0])], [line([1e300, -1e300])]],
    ids=["no curve", "nothing finite", "flat", "one point", "huge"],
)  # fmt: skip
def test_odd_curves_give_a_figure(curves: list[Curve]) -> None:
    svg = draw(result(curves, curves), (PANEL, Panel("q", "Another", "x", "y", "xy")))
    ElementTree.fromstring(svg)
    assert "No curve has a value to show here." in svg


def test_a_figure_of_the_largest_curves_stays_light() -> None:
    noise = np.random.default_rng(0)
    seeds = [[line(noise.random(300).tolist(), label=f"net {i}") for i in range(10)] for _ in range(5)]
    assert len(draw(result(*seeds), (PANEL,)).encode()) < 120_000


def test_thumbnails_have_lines_and_no_text() -> None:
    chart = charts(result([line([1, 2, 3])], [line([2, 2, 2])]), (PANEL,))[0]
    root = ElementTree.fromstring(thumbnail(chart))
    assert not root.findall(f".//{SVG}text") and len(root.findall(f".//{SVG}path")) >= 2
    style = root.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme:dark" in style and style.count("--series-1:") == 2


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]
