"""A line chart written as SVG: what the page of a claim shows, in the look of the report's plots.

The plots of a race are matplotlib's. A site shows several charts of each of many papers, and matplotlib builds axes and ticks
one object at a time; these charts are paths and texts only, and so they are written directly, with the same palette and the
same ticks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from thalweg.report.canvas import WIDTH, linear_ticks, log_ticks
from thalweg.report.claim_series import Series
from thalweg.report.curves import Array
from thalweg.report.numbers import tick
from thalweg.report.palette import Mark
from thalweg.report.text import clean, shorten

_TOP, _HEIGHT, _BELOW, _RIGHT = 26.0, 214.0, 50.0, 16.0
_TYPE = 12.0
_LEGEND_LINE, _HALF = 19.0, 26
_MARKERS, _MARKER_SCALE = 9, 0.78


@dataclass(frozen=True)
class Axis:
    """One axis: its name, and the numbers at its ends."""

    name: str
    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, name: str, values: Array, log: bool, room: float) -> Axis:
        """The axis of the finite ones of these values, with a share of its length as room at both ends."""
        good = values[np.isfinite(values)]
        low, high = float(good.min()), float(good.max())
        if log:
            factor = (high / low) ** room if high > low else 1.5
            return cls(name, low / factor, high * factor, True)
        pad = room * (high - low) or 0.1 * abs(high) or 0.5
        return cls(name, low - pad, high + pad, False)

    @property
    def ticks(self) -> list[float]:
        """Round numbers along it."""
        found = log_ticks(self.low, self.high, 6) if self.log else linear_ticks(self.low, self.high, 6)
        return found if len(found) > 1 else linear_ticks(self.low, self.high, 4)

    def scaled(self, values: Array) -> Array:
        """Values as distances along it."""
        return np.log(values) if self.log else values

    def place(self, values: Array, start: float, length: float) -> Array:
        """Where values lie on a line from ``start``; ``length`` is negative upwards. NaN stays NaN."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        return start + (self.scaled(values) - low) / (high - low) * length


@dataclass(frozen=True)
class Chart:
    """A drawn chart.

    Args:
        title, description: what it shows; the title isn't drawn.
        height: of its box, which is 420 wide.
        frame: left, top, width and height of the inside of its axes.
        inside: grid and lines.
        around: axis, ticks, names and legend.
    """

    title: str
    description: str
    height: float
    frame: tuple[float, float, float, float]
    inside: Element
    around: Element


def line_chart(title: str, x_name: str, y_name: str, log: str, lines: Sequence[Series], legend: Sequence[tuple[str, Mark]],
               description: str) -> Chart:  # fmt: skip
    """Draw lines with their bands, theory on top.

    Args:
        title: what it shows.
        x_name, y_name: the axes' names with units.
        log: logarithmic axes: "", "x", "y" or "xy".
        lines: at least one, each with a finite value.
        legend: names and looks, below the axes.
        description: the same in words.
    """
    x_axis = Axis.of(x_name, np.concatenate([line.places for line in lines]), "x" in log, 0.02)
    y_axis, cut = _y_axis(y_name, lines, "y" in log)
    left = 8 + 0.58 * _TYPE * max(len(tick(value)) for value in y_axis.ticks)
    frame = (left, _TOP, WIDTH - left - _RIGHT, _HEIGHT)
    inside, around = Element("g"), Element("g")
    _draw_axes(inside, around, x_axis, y_axis, frame)
    if cut:
        _text(around, WIDTH - _RIGHT, _TOP - 12, "↑ cut off where it explodes", _TYPE - 1.5, "--muted", "end")
    for line in sorted(lines, key=lambda line: line.role == "theory"):
        _draw_series(
            inside, line, lambda x: x_axis.place(x, left, frame[2]), lambda y: y_axis.place(y, _TOP + _HEIGHT, -_HEIGHT)
        )
    height = _draw_legend(around, legend, _TOP + _HEIGHT + _BELOW)
    return Chart(clean(title), clean(description), height, frame, inside, around)


def _y_axis(name: str, lines: Sequence[Series], log: bool) -> tuple[Axis, bool]:
    """The y axis, and whether lines leave it: those that break off at their highest value, far above all others.

    A run that explodes must not flatten the rest; of such a line the beginning alone makes room.
    """
    whole = Axis.of(name, np.concatenate([line.values for line in lines]), log, 0.05)
    end = max(float(np.nanmax(line.places)) for line in lines)
    leaving = [line for line in lines if _breaks_off(line, end)]
    if not leaving or len(leaving) == len(lines):
        return whole, False
    rest = [line.values for line in lines if line not in leaving]
    starts = [values[np.isfinite(values)][:1] for values in (line.path[1] for line in leaving)]
    near = Axis.of(name, np.concatenate([*rest, *starts]), log, 0.05)
    low, high, top = near.scaled(np.array([near.low, near.high, whole.high]))
    return (near, True) if top > high + (high - low) else (whole, False)


def _breaks_off(line: Series, end: float) -> bool:
    """Whether the line ends before the others and at its highest value."""
    x, y = line.path
    good = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    return bool(len(good) > 1 and x[good[-1]] < end and y[good[-1]] == y[good].max() > y[good[0]])


def empty_chart(title: str, words: str) -> Chart:
    """A chart that says why there is nothing to see."""
    around = Element("g")
    _text(around, WIDTH / 2, 60, words, _TYPE, "--muted", "middle")
    return Chart(clean(title), clean(words), 120, (0, 0, WIDTH, 120), Element("g"), around)


def _draw_axes(
    inside: Element, around: Element, x_axis: Axis, y_axis: Axis, frame: tuple[float, float, float, float]
) -> None:
    left, top, width, height = frame
    bottom = top + height
    y_ticks, x_ticks = np.array(y_axis.ticks), np.array(x_axis.ticks)
    places = y_axis.place(y_ticks, bottom, -height)
    _path(
        inside,
        "".join(f"M{_n(left)} {_n(y)}h{_n(width)}" for y in places),
        "stroke:var(--grid);stroke-width:.8;fill:none",
    )
    _path(around, f"M{_n(left)} {_n(bottom)}h{_n(width)}", "stroke:var(--muted);stroke-width:.8;fill:none")
    for value, y in zip(y_ticks, places, strict=True):
        _text(around, left - 6, y + 4.2, tick(float(value)), _TYPE, "--muted", "end")
    for value, x in zip(x_ticks, x_axis.place(x_ticks, left, width), strict=True):
        _text(around, float(x), bottom + 16, tick(float(value)), _TYPE, "--muted", "middle")
    _text(around, left + width / 2, bottom + 34, shorten(x_axis.name, 60), _TYPE, "--muted", "middle")
    _text(around, 3, top - 12, shorten(y_axis.name, 62), _TYPE, "--muted")


def _draw_series(inside: Element, line: Series, across: Callable[[Array], Array], up: Callable[[Array], Array]) -> None:
    look = line.look
    group = SubElement(inside, "g")
    colour = f"var({look.variable})"
    dash = f";stroke-dasharray:{look.dasharray}" if look.dashes else ""
    thin = 1.6 if line.role == "theory" else 2.0
    if line.curve is None:
        for x, y in line.single:
            _path(group, _trace(across(x), up(y)), f"fill:none;stroke:{colour};stroke-width:1{dash}")
        return
    x, median = across(line.curve.steps), up(line.curve.median)
    low, high = np.maximum(up(line.curve.low), _TOP), np.maximum(up(line.curve.high), _TOP)
    if line.curve.runs > 1 and bool((line.curve.high > line.curve.low).any()):
        _path(group, _band(x, low, high), f"fill:{colour};fill-opacity:.17")
        if np.isfinite(median).sum() == 1:
            bars = "".join(
                f"M{_n(a)} {_n(b)}V{_n(c)}" for a, b, c in zip(x, low, high, strict=True) if math.isfinite(a + b + c)
            )
            _path(group, bars, f"fill:none;stroke:{colour};stroke-width:1.5")
    _path(group, _trace(x, median), f"fill:none;stroke:{colour};stroke-width:{thin}{dash}")
    if not look.marker and np.isfinite(median).sum() == 1:
        at = int(np.flatnonzero(np.isfinite(median))[0])
        _path(group, f"M{_n(x[at] - 20)} {_n(median[at])}h40", f"fill:none;stroke:{colour};stroke-width:{thin}{dash}")
    if look.marker:
        every = max(1, math.ceil(len(x) / _MARKERS))
        shift = 2 * look.index + (every // 2 if line.role == "theory" else 0)  # so that markers don't cover each other
        for i in range(shift % every if len(x) > every else 0, len(x), every):
            if math.isfinite(x[i] + median[i]) and median[i] >= _TOP:
                _marker(group, look, x[i], median[i])


def _draw_legend(around: Element, legend: Sequence[tuple[str, Mark]], top: float) -> float:
    """Two entries on a line, or one where a name is long; gives the bottom."""
    columns = 1 if any(len(name) > _HALF for name, _ in legend) else 2
    for i, (name, look) in enumerate(legend):
        x, y = (3 + i % columns * WIDTH / 2), top + 8 + _LEGEND_LINE * (i // columns)
        dash = f";stroke-dasharray:{look.dasharray}" if look.dashes else ""
        _path(around, f"M{_n(x)} {_n(y)}h28", f"fill:none;stroke:var({look.variable});stroke-width:2{dash}")
        if look.marker:
            _marker(around, look, x + 14, y)
        _text(around, x + 35, y + 4.2, shorten(name, _HALF if columns == 2 else 2 * _HALF + 5), _TYPE, "--ink")
    return top + _LEGEND_LINE * math.ceil(len(legend) / columns) + 2


def _trace(x: Array, y: Array) -> str:
    """A path through the points, with a gap where one is missing and an end where it leaves the frame upwards."""
    parts, pen, last = [], "M", (math.nan, math.nan)
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        if not math.isfinite(a + b):
            pen = "M"
        elif b >= _TOP:
            if last[1] < _TOP:
                parts.append(f"M{_n(_crossing(last, (a, b)))} {_n(_TOP)}")
                pen = "L"
            parts.append(f"{pen}{_n(a)} {_n(b)}")
            pen = "L"
        elif last[1] >= _TOP and pen == "L":
            parts.append(f"L{_n(_crossing(last, (a, b)))} {_n(_TOP)}")
            pen = "M"
        last = (a, b) if math.isfinite(a + b) else (math.nan, math.nan)
    return "".join(parts)


def _crossing(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Where the line between two points meets the top of the frame."""
    return one[0] + (other[0] - one[0]) * (_TOP - one[1]) / (other[1] - one[1])


def _band(x: Array, low: Array, high: Array) -> str:
    """The outline between two lines, one piece for each stretch without a gap."""
    good = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    pieces = []
    for stretch in np.split(np.arange(len(x)), np.flatnonzero(~good)):
        inner = stretch[good[stretch]]
        if len(inner) > 1:
            pieces.append(_trace(np.r_[x[inner], x[inner][::-1]], np.r_[high[inner], low[inner][::-1]]) + "Z")
    return "".join(pieces)


def _marker(parent: Element, look: Mark, x: float, y: float) -> None:
    size = 5 * _MARKER_SCALE
    colour = f"var({look.variable})"
    style = f"fill:var(--paper);stroke:{colour};stroke-width:1.7" if look.hollow else f"fill:{colour}"
    node = _path(parent, look.path, style)
    node.set("transform", f"translate({_n(x - size)} {_n(y - size)}) scale({_MARKER_SCALE})")


def _path(parent: Element, d: str, style: str) -> Element:
    return SubElement(parent, "path", {"d": d, "style": style})


def _text(parent: Element, x: float, y: float, words: str, size: float, colour: str, anchor: str = "start") -> None:
    style = f"font-size:{size:g}px;fill:var({colour})" + (f";text-anchor:{anchor}" if anchor != "start" else "")
    SubElement(parent, "text", {"x": _n(x), "y": _n(y), "style": style}).text = clean(words)


def _n(value: float) -> str:
    """A coordinate to a tenth."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
