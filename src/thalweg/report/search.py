"""Plots of the tuning: each tuned setting against the best metric that it gave, one plot a recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from thalweg.race.records import RaceResult, RecipeResult, Run, jsonable
from thalweg.report.canvas import WIDTH, Plot, drawing, linear_ticks, log_ticks, set_ticks
from thalweg.report.numbers import number, tick
from thalweg.report.palette import INK, MUTED, Mark, marks
from thalweg.report.text import clean, shorten

_COLUMNS, _GAP, _LEFT, _TOP, _PANEL, _BELOW = 3, 22.0, 40.0, 8.0, 96.0, 46.0


def tuning_scatter(result: RaceResult, recipe: str) -> Plot | None:
    """Best metric of every tuning run against each setting of one recipe; None if it had nothing to tune.

    A ring marks the setting that was chosen, a cross a run that did not finish, an arrow a choice at the edge of its range.

    Raises:
        KeyError: the race had no such recipe.
    """
    row = {row.name: row for row in result.recipes}[recipe]
    look = marks(result)[recipe]
    runs = result.runs_of(recipe, "tune")
    settings = sorted({key for run in runs for key in run.settings if _varies(runs, key)})
    if not settings:
        return None
    lines = math.ceil(len(settings) / _COLUMNS)
    with drawing():
        plot = Plot(f"tuning-{look.index}", f"Tuning of {shorten(recipe, 40)}", _TOP + lines * (_PANEL + _BELOW))
        limits = _metric_limits(runs, result)
        columns = min(_COLUMNS, len(settings))
        width = (WIDTH - _LEFT - 14 - _GAP * (columns - 1)) / columns
        for i, key in enumerate(settings):
            line, column = divmod(i, columns)
            axes = plot.panel(_LEFT + column * (width + _GAP), _TOP + line * (_PANEL + _BELOW), width, _PANEL)
            _draw_panel(plot, axes, result, row, look, runs, key, limits)
            if column:
                axes.tick_params(labelleft=False)
    best = ", ".join(f"{key} {written(row.settings.get(key))}" for key in settings)
    plot.description = f"Scatter plots of {clean(result.metric_name)} against {', '.join(map(clean, settings))} over "
    plot.description += f"{len(runs)} tuning runs of {shorten(recipe, 60)}. Chosen: {clean(best)}."
    return plot


def _draw_panel(
    plot: Plot,
    axes: Axes,
    result: RaceResult,
    row: RecipeResult,
    look: Mark,
    runs: Sequence[Run],
    key: str,
    limits: tuple[float, float],
) -> None:
    used = [run for run in runs if key in run.settings]
    place = _place_settings(axes, [run.settings[key] for run in used])
    worst = limits[1] if result.goal == "min" else limits[0]
    axes.set_ylim(*limits)
    set_ticks(axes, "y", linear_ticks(*limits, 4))
    axes.grid(axis="y")
    axes.tick_params(labelsize=9.5)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    dots: dict[str, list[tuple[float, float]]] = {"good": [], "failed": [], "chosen": []}
    for run in used:
        x, best = place(run.settings[key]), run.best(result.goal)
        good = run.outcome == "finished" and math.isfinite(best)
        y = min(max(best, limits[0]), limits[1]) if good else worst
        dots["good" if good else "failed"].append((x, y))
        if _chosen(run, row):
            dots["chosen"].append((x, y))
        value = number(best, 4) if good else run.outcome.replace("_", " ")
        plot.say(axes, x, y, look.index, f"{shorten(key, 30)} = {written(run.settings[key])}: {value}")
    looks: dict[str, dict[str, Any]] = {
        "good": {"marker": "o", "markersize": 5, "markeredgewidth": 0, "color": look.colour, "alpha": 0.6},
        "failed": {"marker": "x", "markersize": 6, "markeredgewidth": 1.6, "color": look.colour},
        "chosen": {"marker": "o", "markersize": 11, "markerfacecolor": "none", "color": INK},
    }
    for kind, places in dots.items():
        if places:
            xs, ys = zip(*places, strict=True)
            axes.plot(xs, ys, linestyle="none", clip_on=False, gid=f"r{look.index}", **looks[kind])
    edge = key in row.edges
    axes.set_xlabel(shorten(key, 20) + (" ▸ edge" if edge else ""), labelpad=4, fontsize=9.5,
                    color=INK if edge else MUTED, fontweight="bold" if edge else "normal")  # fmt: skip


def _place_settings(axes: Axes, values: Sequence[Any]) -> Any:
    """Set up the x axis for these values; returns the function from a value to its place."""
    if all(_numeric(v) for v in values):
        low, high = min(values), max(values)
        if low > 0 and high > 10 * low:
            room = (high / low) ** 0.08
            axes.set_xscale("log")
            axes.set_xlim(low / room, high * room)
            ticks = log_ticks(low / room, high * room, 3)
        else:
            room = 0.08 * (high - low) or 0.5
            axes.set_xlim(low - room, high + room)
            ticks = linear_ticks(low - room, high + room, 3)
        set_ticks(axes, "x", ticks if len(ticks) > 1 or low > 0 else linear_ticks(low, high, 2))
        return float
    names = sorted({written(value) for value in values})
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xticks(range(len(names)), labels=[shorten(name, max(4, 20 // len(names))) for name in names])
    return lambda value: float(names.index(written(value)))


def _metric_limits(runs: Sequence[Run], result: RaceResult) -> tuple[float, float]:
    """The better three quarters of the runs and a little more; what is worse lies on the edge."""
    sign = 1 if result.goal == "min" else -1
    good = sorted(sign * b for run in runs if run.outcome == "finished" and math.isfinite(b := run.best(result.goal)))
    if not good:
        return 0.0, 1.0
    low, high = good[0], good[max(0, math.ceil(0.75 * len(good)) - 1)]
    room = high - low or 0.05 * abs(low) or 0.5
    low, high = low - 0.15 * room, min(good[-1] + 0.15 * room, high + 1.5 * room)
    return (low, high) if sign == 1 else (-high, -low)


def _varies(runs: Sequence[Run], key: str) -> bool:
    return len({written(run.settings[key]) for run in runs if key in run.settings}) > 1


def _chosen(run: Run, row: RecipeResult) -> bool:
    return all(row.settings.get(key) == value for key, value in run.settings.items())


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def written(value: Any) -> str:
    """A setting as it is shown."""
    if isinstance(value, float):
        return number(value, pad=False) if abs(value) < 1e6 else tick(value)
    return shorten(value if isinstance(value, str) else json.dumps(jsonable(value), default=str), 40)
