"""The figure of a claim: theory and experiment on the same axes, panel beside panel."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from markupsafe import Markup

from thalweg.claims.engine.contract import Panel, Result
from thalweg.report.canvas import WIDTH
from thalweg.report.claim_series import Series, band_words, series_of
from thalweg.report.line_chart import Chart, empty_chart, line_chart
from thalweg.report.numbers import number
from thalweg.report.palette import INK, MUTED, PAPER, VARIABLES, Mark
from thalweg.report.text import clean, shorten

_SVG = "http://www.w3.org/2000/svg"
_GAP, _TITLE = 32.0, 30.0
_COLOURS = {f"var({name})": colour for colour, name in VARIABLES.items()}
_FONTS = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def draw(result: Result, panels: tuple[Panel, ...]) -> str:
    """The whole figure as one SVG file for slides and papers, on white, in colours of its own.

    Lines are medians over the seeds with a band around them; what was measured is solid, theory dashed, controls dotted, and
    markers tell the lines apart without colour. Title and description say the same in words.

    Args:
        result: a finished check.
        panels: the claim's ``PANELS``; two stand side by side.

    Returns:
        The SVG's text.
    """
    return compose(result, charts(result, panels))


def charts(result: Result, panels: Sequence[Panel]) -> list[Chart]:
    """One chart for each panel, as a page shows them."""
    return [_chart(result, panel) for panel in panels]


def compose(result: Result, drawn: Sequence[Chart]) -> str:
    """The file of :func:`draw` from charts that are drawn already."""
    columns = min(2, max(1, len(drawn)))
    width = WIDTH * columns + _GAP * (columns + 1)
    root = Element("svg", {"xmlns": _SVG, "role": "img", "aria-labelledby": "figure-title figure-desc"})
    root.set("font-family", _FONTS)
    SubElement(root, "title", {"id": "figure-title"}).text = clean(f"{result.slug}: {result.verdict.word}")
    told = [f"{chart.title}: {chart.description}" for chart in drawn]
    SubElement(root, "desc", {"id": "figure-desc"}).text = " ".join([*told, band_words(result)])
    ground = SubElement(root, "rect", {"width": f"{width:g}", "fill": PAPER})
    top = _GAP / 2
    for first in range(0, len(drawn), columns):
        row = drawn[first : first + columns]
        for column, chart in enumerate(row):
            at = f"translate({_GAP + column * (WIDTH + _GAP):g} {top:g})"
            group = SubElement(root, "g", {"transform": at})
            heading = {"x": "3", "y": "15", "font-size": "13", "font-weight": "bold", "fill": INK}
            SubElement(group, "text", heading).text = shorten(chart.title, 60)
            SubElement(group, "g", {"transform": f"translate(0 {_TITLE:g})"}).extend([chart.inside, chart.around])
        top += _TITLE + max(chart.height for chart in row) + _GAP / 2
    words = {"x": f"{_GAP + 3:g}", "y": f"{top + 6:g}", "font-size": "10", "fill": MUTED}
    SubElement(root, "text", words).text = band_words(result)
    ground.set("height", f"{top + 22:g}")
    root.set("viewBox", f"0 0 {width:g} {top + 22:g}")
    return re.sub(r"var\(--[\w-]+\)", lambda m: _COLOURS.get(m[0], m[0]), tostring(root, encoding="unicode"))


def inline(chart: Chart, key: str) -> Markup:
    """One chart as an ``<svg>`` element for a page, in the page's colours and type.

    Args:
        chart: the chart.
        key: starts the ids of its title and description; letters, digits and hyphens, once a page.
    """
    root = Element("svg", {"viewBox": f"0 0 {WIDTH:g} {chart.height:g}", "role": "img"})
    root.set("aria-labelledby", f"{key}-title {key}-desc")
    SubElement(root, "title", {"id": f"{key}-title"}).text = chart.title
    SubElement(root, "desc", {"id": f"{key}-desc"}).text = chart.description
    root.extend([chart.inside, chart.around])
    return Markup(tostring(root, encoding="unicode"))


def thumbnail(chart: Chart) -> str:
    """The inside of a chart's frame as a small SVG file without text, for light and dark pages."""
    root = Element("svg", {"xmlns": _SVG, "viewBox": " ".join(f"{value:.0f}" for value in chart.frame)})
    root.set("preserveAspectRatio", "none")
    SubElement(root, "style").text = _both_modes()
    inside = copy.deepcopy(chart.inside)
    for group in inside.iter("g"):
        for path in [child for child in group if child.get("transform")]:
            group.remove(path)  # markers are too small to be told apart, and would be stretched
    root.append(inside)
    return tostring(root, encoding="unicode")


@cache
def _both_modes() -> str:
    """The style sheet's colours, light and dark, and lines that stay as thick as on the page."""
    sheet = files("thalweg.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", part)) for part in sheet.split("@media")[:2])
    texts = [";".join(f"{name}:{mode[name]}" for name in VARIABLES.values()) for mode in (light, dark)]
    scheme = f":root{{{texts[0]}}}@media(prefers-color-scheme:dark){{:root{{{texts[1]}}}}}"
    return scheme + "path{vector-effect:non-scaling-stroke}"


def _chart(result: Result, panel: Panel) -> Chart:
    lines = series_of(result, panel)
    if not lines:
        return empty_chart(panel.title, "No curve has a value to show here.")
    described = _describe(panel, lines)
    return line_chart(panel.title, panel.x, panel.y, panel.log, lines, _legend(lines), described)


def _legend(lines: Sequence[Series]) -> list[tuple[str, Mark]]:
    """Names and looks; theory that has the names of measured lines is one entry."""
    entries = [(_name(line), line.look) for line in lines if line.role != "theory"]
    named = {line.label for line in lines if line.role != "theory"}
    theory = [line for line in lines if line.role == "theory"]
    if theory and all(line.label in named for line in theory):
        first = theory[0].look
        return [*entries, ("theory", Mark(first.index, first.colour, first.dashes, "", hollow=True))]
    return [*entries, *((_name(line), line.look) for line in theory)]


def _name(line: Series) -> str:
    """The label, that lines are single seeds' where they are, and the role where the label doesn't say it."""
    label = line.label if line.curve else f"{line.label}, each seed"
    if line.role == "measured" or re.search(rf"{line.role}|predict|bound", line.label, re.IGNORECASE):
        return label
    return f"{label} ({line.role})"


def _describe(panel: Panel, lines: Sequence[Series]) -> str:
    axes = {"": "", "x": ", x axis logarithmic", "y": ", y axis logarithmic", "xy": ", both axes logarithmic"}[
        panel.log
    ]
    told = []
    for line in lines:
        x, y = line.path
        good = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if len(good):
            first, last = good[0], good[-1]
            ends = f"{number(y[first])} at {number(x[first])}"
            ends += f" to {number(y[last])} at {number(x[last])}" if last > first else ""
            told.append(f"{shorten(line.label, 80)} ({line.role}): {ends}")
    return f"Line chart of {panel.y} against {panel.x}{axes}. {'; '.join(told)}."
