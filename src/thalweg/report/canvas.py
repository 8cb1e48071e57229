"""The sheet of paper that every plot of the report is drawn on.

A :class:`Plot` is a matplotlib figure laid out in points, 420 wide, so that it reads at phone width and two stand side by side
on a desk. Nothing here touches ``matplotlib.pyplot`` or its global state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from thalweg.report.numbers import tick
from thalweg.report.palette import GRID, INK, MUTED, Mark
from thalweg.report.text import clean, shorten

WIDTH = 420.0
TITLE = 30.0
"""Height of the title, which only image files show; on the page the caption is HTML."""

IMAGE_ONLY = "image-only"
"""Group id of what the page leaves out: titles and legends."""

_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": INK,
    "text.parse_math": False,  # a recipe or setting may hold a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "thalweg",
    "path.simplify": False,
}


@contextmanager
def drawing() -> Iterator[None]:
    """matplotlib with the report's look; the settings before are restored."""
    with matplotlib.rc_context(_STYLE):
        yield


@dataclass(frozen=True)
class Point:
    """A drawn value that the page tells about when it is pointed at."""

    axes: Axes
    x: float
    y: float
    slot: int
    text: str


@dataclass(frozen=True)
class Legend:
    """Room for a legend below the plot in image files: names and looks."""

    entries: Sequence[tuple[str, Mark]] = field(default_factory=tuple)

    @property
    def height(self) -> float:
        """Points needed; two entries a line."""
        return 16.0 * math.ceil(len(self.entries) / 2) + (8.0 if self.entries else 0.0)


class Plot(Figure):
    """A matplotlib figure that knows its title, its text for readers who can't see it, and the values that it shows.

    Args:
        key: short name: the file's and the page's anchor.
        title: what it shows.
        height: height in points of what the page shows; title and legend come on top of it in image files.
        legend: entries of the legend of image files.
    """

    def __init__(self, key: str, title: str, height: float, legend: Legend | None = None) -> None:
        legend = legend or Legend()
        self.key, self.title, self.body = key, clean(title), height
        self.description = ""
        self.note = ""
        self.points: list[Point] = []
        total = TITLE + height + legend.height
        super().__init__(figsize=(WIDTH / 72, total / 72), dpi=72)
        FigureCanvasAgg(self)
        self._total = total
        self.text(3 / WIDTH, 1 - 19 / total, self.title, fontsize=12, fontweight="bold", gid=IMAGE_ONLY)
        self._draw_legend(legend)

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes at a place in points from the top left corner of the body."""
        bottom = self._total - TITLE - top - height
        axes = self.add_axes((left / WIDTH, bottom / self._total, width / WIDTH, height / self._total))
        axes.set_facecolor("none")
        return axes

    def say(self, axes: Axes, x: float, y: float, slot: int, text: str) -> None:
        """Remember a drawn value for the page's tooltips."""
        if math.isfinite(x) and math.isfinite(y):
            self.points.append(Point(axes, x, y, slot, clean(text)))

    def _draw_legend(self, legend: Legend) -> None:
        for i, (name, mark) in enumerate(legend.entries):
            y = (legend.height - 12 - 16 * (i // 2)) / self._total
            x = 3 if i % 2 == 0 else WIDTH / 2
            line = Line2D([x / WIDTH, (x + 26) / WIDTH], [y, y], transform=self.transFigure, gid=IMAGE_ONLY)
            line.set(color=mark.colour, linestyle=mark.linestyle, linewidth=1.8, marker=mark.marker, markersize=4.5)
            self.add_artist(line)
            self.text((x + 32) / WIDTH, y, shorten(name, 26), fontsize=9, va="center", gid=IMAGE_ONLY)


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two positive ones for a logarithmic axis; fewer than two where the range is narrow."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for leading in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [n * 10.0**e for e in range(first, last + 1) for n in leading if low <= n * 10.0**e <= high]
        if len(ticks) <= most:
            return ticks
    stride = math.ceil(len(ticks) / most)
    return ticks[::stride]


def set_ticks(axes: Axes, which: str, ticks: Sequence[float]) -> None:
    """Exactly these ticks, written briefly, on the axis ``"x"`` or ``"y"``."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(list(ticks), labels=[tick(value) for value in ticks])
    axis.set_ticks([], minor=True)


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two others for a linear axis."""
    from matplotlib.ticker import MaxNLocator

    slack = 1e-9 * max(abs(low), abs(high))
    return [
        t
        for t in MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        if low - slack <= t <= high + slack
    ]
