"""Plots with one row a recipe: ratios with their intervals, final metric, step time, memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.axes import Axes

from thalweg.race.records import RaceResult, RecipeResult
from thalweg.report.canvas import WIDTH, Plot, drawing, linear_ticks, log_ticks, set_ticks
from thalweg.report.numbers import MISSING, duration, finite, interval, number, ratio, size
from thalweg.report.order import ordered
from thalweg.report.palette import GRID, INK, MUTED, PAPER, Mark, marks
from thalweg.report.text import clean, shorten

_ROW, _TOP, _AXIS, _SIDE = 36.0, 4.0, 38.0, 3.0


@dataclass(frozen=True)
class Row:
    """One line of such a plot; ``low`` and ``high`` may be infinite, which is drawn as an arrow."""

    name: str
    mark: Mark
    value: float
    low: float = math.nan
    high: float = math.nan
    text: str = MISSING


def ratio_forest(result: RaceResult, of: Literal["steps", "seconds"] = "steps") -> Plot:
    """Time to target over the baseline's, with intervals, on a logarithmic axis with the baseline at 1."""
    rows = [_ratio_row(row, marks(result)[row.name], of) for row in ordered(result) if row.name != result.baseline]
    title = f"{'Steps' if of == 'steps' else 'Seconds'} to target, relative to the baseline"
    both = [_ratio_row(row, marks(result)[row.name], key) for row in result.recipes for key in ("steps", "seconds")]
    plot = _rows(f"{of}-ratio", title, rows, _ratio_limits(both), log=True)
    if rows:
        axes = plot.axes[0]
        axes.axvline(1, color=INK, linewidth=1, zorder=1)
        axes.set_xlabel(
            f"← faster\u2003\u2003{shorten(result.baseline, 24)} = 1\u2003\u2003slower →", labelpad=5, fontsize=10
        )
    return plot


def final_metric(result: RaceResult) -> Plot:
    """The metric at the last evaluation: mean over fresh seeds with its interval."""
    looks = marks(result)
    rows = []
    for row in ordered(result):
        low, high = _bounds(row.final_ci)
        span = interval(row.final_ci, number)
        text = number(row.final) + (f"  ({span})" if span else "")
        rows.append(Row(row.name, looks[row.name], _float(row.final), low, high, text))
    plot = _rows("final-metric", f"Final {clean(result.metric_name)}", rows, _linear_limits(rows))
    better = "lower is better" if result.goal == "min" else "higher is better"
    if rows:
        plot.axes[0].set_xlabel(f"{shorten(result.metric_name, 30)}, {better}", labelpad=5, fontsize=10)
    return plot


def step_time(result: RaceResult) -> Plot:
    """Median seconds of one training step."""
    return _bars("step-time", "Time of one step", [("", _bar_rows(result, lambda r: _float(r.step_seconds), duration))])


def memory(result: RaceResult) -> Plot:
    """Peak memory of a run, and what the optimizer's state takes."""
    peak = _bar_rows(result, lambda row: float(row.peak_memory_bytes or 0), size)
    state = _bar_rows(result, lambda row: float(row.state_bytes or 0), size)
    return _bars("memory", "Memory", [("peak", peak), ("optimizer state", state)])


def _bar_rows(
    result: RaceResult, value: Callable[[RecipeResult], float], form: Callable[[float | None], str]
) -> list[Row]:
    looks = marks(result)
    return [Row(row.name, looks[row.name], value(row), text=form(value(row))) for row in ordered(result)]


def _bars(key: str, title: str, columns: Sequence[tuple[str, Sequence[Row]]]) -> Plot:
    """Bars from zero, one column a quantity; names stand in the first."""
    count = max(1, len(columns[0][1]))
    head = 16.0 if len(columns) > 1 else 0.0
    width = (WIDTH - 2 * _SIDE - 24 * (len(columns) - 1)) / len(columns)
    with drawing():
        plot = Plot(key, title, _TOP + head + _ROW * count + 4)
        for i, (heading, rows) in enumerate(columns):
            axes = plot.panel(_SIDE + i * (width + 24), _TOP + head, width, _ROW * count)
            most = max((row.value for row in rows if math.isfinite(row.value)), default=0.0) or 1.0
            axes.set_xlim(0, most)
            axes.set_ylim(count, 0)
            axes.set_axis_off()
            axes.annotate(heading, (0, 1), xytext=(0, 4), xycoords="axes fraction", textcoords="offset points",
                          fontsize=9.5, color=MUTED)  # fmt: skip
            for j, row in enumerate(rows):
                _draw_bar(plot, axes, j, row, most, named=i == 0, room=int(width / 7))
    told = [
        f"{shorten(row.name, 60)}: {row.text}" + (f" {heading}" if heading else "")
        for heading, rows in columns
        for row in rows
    ]
    plot.description = f"{plot.title}. {'; '.join(told)}."
    return plot


def _draw_bar(plot: Plot, axes: Axes, i: int, row: Row, most: float, named: bool, room: int) -> None:
    slot, label_y, y = f"r{row.mark.index}", i + 0.38, i + 0.62
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "baseline", "gid": slot}
    if named:
        axes.annotate(shorten(row.name, room - len(row.text)), (0, label_y), **at)
    axes.annotate(row.text, (1, label_y), ha="right", color=MUTED, **at)
    axes.plot([0, most], [y, y], color=GRID, linewidth=5, solid_capstyle="butt", gid=slot)
    if row.value > 0:
        axes.plot([0, row.value], [y, y], color=row.mark.colour, linewidth=5, solid_capstyle="butt", gid=slot)
    plot.say(axes, max(row.value, 0.0), y, row.mark.index, row.text)


def _rows(key: str, title: str, rows: Sequence[Row], limits: tuple[float, float], log: bool = False) -> Plot:
    height = _ROW * max(1, len(rows))
    with drawing():
        plot = Plot(key, title, _TOP + height + _AXIS)
        axes = plot.panel(_SIDE, _TOP, WIDTH - 2 * _SIDE, height)
        axes.set_xscale("log" if log else "linear")
        axes.set_xlim(*limits)
        axes.set_ylim(max(1, len(rows)), 0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        _ticks(axes, limits, log)
        for i, row in enumerate(rows):
            _draw_row(plot, axes, i, row, limits)
        if not rows:
            axes.text(0.5, 0.5, "There is nothing to compare.", transform=axes.transAxes, ha="center", color=MUTED)
    plot.description = f"{plot.title}. " + "; ".join(f"{shorten(row.name, 60)}: {row.text}" for row in rows) + "."
    return plot


def _draw_row(plot: Plot, axes: Axes, i: int, row: Row, limits: tuple[float, float]) -> None:
    slot = f"r{row.mark.index}"
    label_y, y = i + 0.38, i + 0.66
    width = max(12, 58 - len(row.text))
    clear: dict[str, Any] = {
        "facecolor": PAPER,
        "edgecolor": "none",
        "pad": 1.5,
    }  # so that no grid line runs through the text
    at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "baseline", "gid": slot, "bbox": clear}
    axes.annotate(shorten(row.name, width), (0, label_y), **at)
    axes.annotate(row.text, (1, label_y), ha="right", color=MUTED, **at)
    if math.isnan(row.value):
        return
    low, high = (min(max(v, limits[0]), limits[1]) for v in (row.low, row.high))
    look: dict[str, Any] = {"color": row.mark.colour, "gid": slot, "clip_on": False}
    if not (math.isnan(row.low) or math.isnan(row.high)):
        axes.plot([low, high], [y, y], linewidth=2, solid_capstyle="butt", **look)
        for bound, edge, arrow in ((row.low, low, "<"), (row.high, high, ">")):
            axes.plot([edge], [y], marker="|" if bound == edge else arrow, markersize=7, markeredgewidth=1.5, **look)
    place = min(max(row.value, limits[0]), limits[1])
    axes.plot([place], [y], marker=row.mark.marker, markersize=8, markeredgecolor=PAPER, markeredgewidth=1, **look)
    plot.say(axes, place, y, row.mark.index, row.text)


def _ticks(axes: Axes, limits: tuple[float, float], log: bool) -> None:
    ticks = log_ticks(*limits, most=8) if log else linear_ticks(*limits)
    set_ticks(axes, "x", ticks if len(ticks) > 1 else linear_ticks(*limits, 4))
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _ratio_row(row: RecipeResult, mark: Mark, of: str) -> Row:
    value, bounds = (
        (row.steps_ratio, row.steps_ratio_ci) if of == "steps" else (row.seconds_ratio, row.seconds_ratio_ci)
    )
    if value is None:
        nothing = row.steps_ratio is None and row.seconds_ratio is None
        return Row(row.name, mark, math.nan, text="no comparison" if nothing else f"no ratio of {of}")
    span = interval(bounds)
    low, high = _bounds(bounds)
    return Row(row.name, mark, _float(value), low, high, ratio(value) + (f"  ({span})" if span else ""))


def _ratio_limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Both forests share these, so that they can be compared by eye; symmetric room around everything, at least 0.8 to 1.25."""
    values = [v for row in rows for v in (row.value, row.low, row.high) if math.isfinite(v) and v > 0]
    low, high = min([0.8, *values]), max([1.25, *values])
    low, high = max(low, 1e-3), min(high, 1e3)
    room = (high / low) ** 0.05
    return low / room, high * room


def _linear_limits(rows: Sequence[Row]) -> tuple[float, float]:
    values = sorted(v for row in rows for v in (row.value, row.low, row.high) if math.isfinite(v))
    if not values:
        return 0.0, 1.0
    low, high = _without_far_ones(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def _without_far_ones(values: list[float]) -> tuple[float, float]:
    """Smallest and largest, but for values that lie hundreds of times further out than half of them do."""
    middle = values[len(values) // 2]
    spread = values[(3 * len(values)) // 4] - values[len(values) // 4] or abs(middle) or 1.0
    near = [v for v in values if abs(v - middle) <= 100 * spread]
    return near[0], near[-1]


def _bounds(pair: Sequence[float | None] | None) -> tuple[float, float]:
    """The two ends of an interval; an end that is missing, as JSON writes infinity, is open."""
    if not pair:
        return math.nan, math.nan
    low, high = pair
    return (float(low) if finite(low) else -math.inf), (float(high) if finite(high) else math.inf)  # type: ignore[arg-type]


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)
