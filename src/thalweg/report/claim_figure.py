"""The figure of a claim: theory and experiment on the same axes, one panel below or beside the other."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from matplotlib.axes import Axes

from thalweg.claims.engine.contract import Panel, Result
from thalweg.report.canvas import TITLE, WIDTH, Legend, Plot, drawing, linear_ticks, log_ticks, set_ticks
from thalweg.report.claim_series import Series, band_words, series_of
from thalweg.report.curves import Array
from thalweg.report.numbers import number, tick
from thalweg.report.palette import INK, MUTED, PAPER, VARIABLES, Mark
from thalweg.report.svg import inline_svg
from thalweg.report.text import clean, shorten

_TOP, _HEIGHT, _BELOW, _RIGHT, _GAP = 24.0, 212.0, 42.0, 12.0, 32.0
_COLOURS = {f"var({name})": colour for colour, name in VARIABLES.items()}


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
    plots = panel_plots(result, panels)
    columns = min(2, max(1, len(plots)))
    rows = [plots[i : i + columns] for i in range(0, len(plots), columns)]
    width = WIDTH * columns + _GAP * (columns + 1)
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img"})
    root.set("aria-labelledby", "figure-title figure-desc")
    root.set("font-family", "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif")
    ElementTree.SubElement(root, "title", {"id": "figure-title"}).text = clean(f"{result.slug}: {result.verdict.word}")
    told = " ".join(f"{plot.title}: {plot.description}" for plot in plots)
    ElementTree.SubElement(root, "desc", {"id": "figure-desc"}).text = f"{told} {band_words(result)}".strip()
    ground = ElementTree.SubElement(root, "rect", {"width": f"{width:g}", "fill": PAPER})
    top = _GAP / 2
    for row in rows:
        for column, plot in enumerate(row):
            root.append(_placed(plot, _GAP + column * (WIDTH + _GAP), top))
        top += TITLE + max(plot.body for plot in row) + _GAP / 2
    words = ElementTree.SubElement(
        root, "text", {"x": f"{_GAP:g}", "y": f"{top + 6:g}", "font-size": "9", "fill": MUTED}
    )
    words.text = band_words(result)
    top += 20
    ground.set("height", f"{top:g}")
    root.set("viewBox", f"0 0 {width:g} {top:g}")
    return re.sub(r"var\(--[\w-]+\)", lambda m: _COLOURS[m[0]], ElementTree.tostring(root, encoding="unicode"))


def panel_plots(result: Result, panels: Sequence[Panel]) -> list[Plot]:
    """One plot for each panel, as a page shows them."""
    return [_plot(result, panel, f"figure-{i}") for i, panel in enumerate(panels, 1)]


def thumbnail(plot: Plot) -> str:
    """The inside of a panel's frame as a small SVG file without text, for light and dark pages."""
    root = ElementTree.fromstring(inline_svg(plot))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("text", "title", "desc"):
                parent.remove(child)
    root.attrib.clear()
    box = plot.axes[0].get_position()
    total = plot.get_figheight() * 72
    frame = (box.x0 * WIDTH, (1 - box.y1) * total, box.width * WIDTH, box.height * total)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("viewBox", " ".join(f"{value:.0f}" for value in frame))
    style = ElementTree.Element("style")
    style.text = _thumbnail_style()
    root.insert(0, style)
    return ElementTree.tostring(root, encoding="unicode")


def _thumbnail_style() -> str:
    """The style sheet's colours, light and dark, and lines that stay as thick as on the page."""
    from importlib.resources import files

    sheet = files("thalweg.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", part)) for part in sheet.split("@media")[:2])
    texts = [";".join(f"{name}:{mode[name]}" for name in VARIABLES.values()) for mode in (light, dark)]
    return f":root{{{texts[0]}}}@media(prefers-color-scheme:dark){{:root{{{texts[1]}}}}}path{{vector-effect:non-scaling-stroke}}"


def _placed(plot: Plot, x: float, y: float) -> ElementTree.Element:
    """A plot at a place of the whole figure, with its title above it."""
    inner = ElementTree.fromstring(inline_svg(plot))
    group = ElementTree.Element("g", {"transform": f"translate({x:g} {y:g})"})
    heading = {"x": "3", "y": "19", "font-size": "12", "font-weight": "bold", "fill": INK}
    ElementTree.SubElement(group, "text", heading).text = plot.title
    group.extend(child for child in inner if child.tag not in ("title", "desc"))
    return group


def _plot(result: Result, panel: Panel, key: str) -> Plot:
    lines = series_of(result, panel)
    legend = Legend(_legend(lines), on_page=True)
    with drawing():
        plot = Plot(key, panel.title, _TOP + _HEIGHT + _BELOW, legend)
        if not lines:
            axes = plot.panel(3, _TOP, WIDTH - 3 - _RIGHT, _HEIGHT)
            axes.set_axis_off()
            axes.text(
                0.5, 0.5, "No curve has a value to show here.", transform=axes.transAxes, ha="center", color=MUTED
            )
            plot.description = "Empty: no curve has a value to show here."
            return plot
        x_limits = _limits(np.concatenate([line.places for line in lines]), "x" in panel.log, 0.02)
        y_limits = _limits(np.concatenate([line.values for line in lines]), "y" in panel.log, 0.05)
        y_ticks = _ticks(y_limits, "y" in panel.log, 6)
        left = 8 + 6.4 * max(len(tick(value)) for value in y_ticks)
        axes = plot.panel(left, _TOP, WIDTH - left - _RIGHT, _HEIGHT)
        _frame(axes, panel, x_limits, y_limits)
        set_ticks(axes, "y", y_ticks)
        axes.annotate(shorten(panel.y, 64), (0, 1), xycoords="axes fraction", xytext=(3 - left, 9), fontsize=10, color=MUTED,
                      textcoords="offset points")  # fmt: skip
        for line in sorted(lines, key=lambda line: line.role == "theory"):
            _draw_line(axes, line, y_limits)
    plot.description = _describe(panel, lines)
    return plot


def _frame(axes: Axes, panel: Panel, x_limits: tuple[float, float], y_limits: tuple[float, float]) -> None:
    axes.set_xscale("log" if "x" in panel.log else "linear")
    axes.set_yscale("log" if "y" in panel.log else "linear")
    axes.set_xlim(*x_limits)
    axes.set_ylim(*y_limits)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    set_ticks(axes, "x", _ticks(x_limits, "x" in panel.log, 6))
    axes.set_xlabel(shorten(panel.x, 64), labelpad=5, fontsize=10)


def _draw_line(axes: Axes, line: Series, limits: tuple[float, float]) -> None:
    look, slot = line.look, f"r{line.look.index}"
    style: dict[str, Any] = {"color": look.colour, "linestyle": look.linestyle, "gid": slot}
    width = 1.5 if line.role == "theory" else 2.0
    if line.curve is None:
        for x, y in line.single:
            axes.plot(x, y, linewidth=0.9, **style)
        return
    x, median = line.curve.steps, line.curve.median
    low, high = (np.clip(values, *limits) for values in (line.curve.low, line.curve.high))
    banded = line.curve.runs > 1 and bool((high > low).any())
    if banded and len(x) > 1:
        axes.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0, gid=slot)
    elif banded:
        axes.vlines(x, low, high, color=look.colour, linewidth=1.5, gid=slot)
    every = max(1, math.ceil(len(x) / 9))
    shift = 2 * look.index + (every // 2 if line.role == "theory" else 0)  # so that markers don't cover each other
    start = shift % every if len(x) > every else 0
    axes.plot(x, median, linewidth=width, marker=look.marker, markersize=4.8, markevery=(start, every),
              markerfacecolor=PAPER if look.hollow else look.colour, markeredgewidth=1.1 if look.hollow else 0,
              solid_capstyle="round", **style)  # fmt: skip


def _limits(values: Array, log: bool, share: float) -> tuple[float, float]:
    """The finite values' range with a little room."""
    good = values[np.isfinite(values)]
    low, high = float(good.min()), float(good.max())
    if log:
        room = (high / low) ** share if high > low else 1.5
        return low / room, high * room
    room = share * (high - low) or 0.1 * abs(high) or 0.5
    return low - room, high + room


def _ticks(limits: tuple[float, float], log: bool, most: int) -> list[float]:
    ticks = log_ticks(*limits, most=most) if log else linear_ticks(*limits, most)
    return ticks if len(ticks) > 1 else linear_ticks(*limits, 4)


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
    """The label, with the role where it doesn't say it itself."""
    if line.role == "measured" or re.search(rf"{line.role}|predict|bound", line.label, re.IGNORECASE):
        return clean(line.label)
    return clean(f"{line.label} ({line.role})")


def _describe(panel: Panel, lines: Sequence[Series]) -> str:
    axes = {"": "", "x": ", x axis logarithmic", "y": ", y axis logarithmic", "xy": ", both axes logarithmic"}[
        panel.log
    ]
    told = []
    for line in lines:
        x, y = line.path
        good = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if not len(good):
            continue
        first, last = good[0], good[-1]
        ends = f"{number(y[first])} at {number(x[first])}"
        ends += f" to {number(y[last])} at {number(x[last])}" if last > first else ""
        told.append(f"{shorten(line.label, 80)} ({line.role}): {ends}")
    return clean(f"Line chart of {panel.y} against {panel.x}{axes}. {'; '.join(told)}.")
