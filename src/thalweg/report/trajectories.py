"""Plots of what happened while training: a value against steps or seconds, one curve a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from thalweg.race.records import RaceResult
from thalweg.report.canvas import WIDTH, Legend, Plot, drawing, linear_ticks, log_ticks, set_ticks
from thalweg.report.curves import MIN_MAX_UP_TO, Curve, curve, downsample
from thalweg.report.numbers import duration, interval, number, steps
from thalweg.report.palette import INK, MUTED, Mark, marks
from thalweg.report.text import clean, count, shorten

Against = Literal["steps", "seconds"]
Scale = Literal["linear", "log", "logit"]

_LEFT, _TOP, _HEIGHT, _BOTTOM = 40.0, 10.0, 212.0, 38.0
_LOGIT = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def metric_curves(result: RaceResult, against: Against = "steps", scale: Scale = "linear") -> Plot:
    """The metric against steps or training seconds: median and band over the fresh seeds, and the target.

    Raises:
        ValueError: ``scale`` can't show these values; :func:`metric_scales` says which can.
    """
    curves = _curves(result, "metric", against)
    if scale not in metric_scales(result):
        raise ValueError(f"scale {scale!r} can't show these values; use one of {', '.join(metric_scales(result))}")
    unit = "steps" if against == "steps" else "seconds"
    subject = clean(result.metric_name)
    name = f"{subject[:1].upper()}{subject[1:]} against {unit}"
    plot = _draw(result, curves, name, f"metric-{against}", against, scale, result.goal, result.target)
    plot.description = _describe(result, curves, result.metric_name, against)
    return plot


def train_loss_curves(result: RaceResult, scale: Scale = "linear") -> Plot:
    """The training loss against steps: median and band over the fresh seeds."""
    curves = _curves(result, "train_loss")
    plot = _draw(result, curves, "Training loss against steps", "train-loss", "steps", scale, "min", math.nan)
    plot.description = _describe(result, curves, "training loss", "steps")
    return plot


def metric_scales(result: RaceResult) -> list[Scale]:
    """Scales that can show the metric, linear first: also ``log``, or ``logit`` for a share that should go up."""
    return _scales(_curves(result, "metric"), result.goal)


def train_loss_scales(result: RaceResult) -> list[Scale]:
    """Scales that can show the training loss, linear first."""
    return _scales(_curves(result, "train_loss"), "min")


def _curves(result: RaceResult, key: Literal["metric", "train_loss"], against: Against = "steps") -> dict[str, Curve]:
    goal = result.goal if key == "metric" else "min"
    points = max(24, min(90, 900 // max(1, len(result.recipes))))
    found = {name: curve(result.runs_of(name, "fresh"), key, goal, against) for name in marks(result)}
    return {name: downsample(value, points) for name, value in found.items() if value is not None}


def _scales(curves: Mapping[str, Curve], goal: str) -> list[Scale]:
    low = min((c.median.min() for c in curves.values()), default=0.0)
    high = max((c.median.max() for c in curves.values()), default=0.0)
    if goal == "max" and low > 0 and high < 1:
        return ["linear", "logit"]
    if goal == "min" and low > 0 and high > 2 * low:
        return ["linear", "log"]
    return ["linear"]


def _draw(
    result: RaceResult,
    curves: Mapping[str, Curve],
    title: str,
    key: str,
    against: Against,
    scale: Scale,
    goal: str,
    target: float,
) -> Plot:
    looks = marks(result)
    shown = [(name, looks[name]) for name in looks if name in curves]
    with drawing():
        plot = Plot(f"{key}-{scale}", title, _TOP + _HEIGHT + _BOTTOM, Legend(shown))
        axes = plot.panel(_LEFT, _TOP, WIDTH - _LEFT - 12, _HEIGHT)
        if not curves:
            return _empty(plot, axes, "No fresh run measured anything.")
        low, high = _limits(curves, goal, target, scale)
        for name, look in reversed(shown):  # the first recipes, the baseline above all, lie on top
            _draw_curve(plot, axes, look, curves[name], against, (low, high))
        _draw_target(axes, target, (low, high))
        _frame(axes, curves, against, scale, (low, high))
    cut = any(_outside(c, low, high) for c in curves.values())
    plot.note = "Values far off the scale are cut off." if cut else ""
    return plot


def _draw_curve(plot: Plot, axes: Axes, look: Mark, data: Curve, against: Against, limits: tuple[float, float]) -> None:
    x = data.steps if against == "steps" else data.seconds
    span = limits[1] - limits[0]
    inside: Callable[[np.ndarray], np.ndarray] = lambda y: np.clip(y, limits[0] - span, limits[1] + span)  # noqa: E731
    slot = f"r{look.index}"
    if data.runs > 1:
        outline = np.concatenate([x, x[::-1]]), np.concatenate([inside(data.low), inside(data.high)[::-1]])
        axes.fill(*outline, color=look.colour, alpha=0.14, linewidth=0, gid=slot)
    every = max(1, math.ceil(len(x) / 7))
    start = look.index % every if len(x) > every else 0
    axes.plot(x, inside(data.median), color=look.colour, linestyle=look.linestyle, linewidth=1.7, gid=slot,
              marker=look.marker, markersize=4.6, markevery=(start, every), markeredgewidth=0)  # fmt: skip
    for step, time, value in data.crosses:
        axes.plot([step if against == "steps" else time], inside(np.array([value])), color=look.colour, marker="x",
                  markersize=7, markeredgewidth=1.8, gid=slot)  # fmt: skip
    for xi, mid, low, high, step in zip(x, data.median, data.low, data.high, data.steps, strict=True):
        if limits[0] <= mid <= limits[1]:
            at = f"{steps(step)} steps" if against == "steps" else f"{duration(xi)}, {steps(step)} steps"
            band = f" ({interval((low, high), number)})" if data.runs > 1 and interval((low, high), number) else ""
            plot.say(axes, xi, mid, look.index, f"{at}: {number(mid)}{band}")


def _draw_target(axes: Axes, target: float, limits: tuple[float, float]) -> None:
    if not math.isfinite(target) or not limits[0] <= target <= limits[1]:
        return
    axes.axhline(target, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), gid="target", zorder=1.5)
    axes.annotate(f"target {number(target, 4, pad=False)}", (0, target), xycoords=("axes fraction", "data"), xytext=(2, 3),
                  textcoords="offset points", ha="left", va="bottom", fontsize=9, color=INK, gid="target")  # fmt: skip


def _frame(
    axes: Axes, curves: Mapping[str, Curve], against: Against, scale: Scale, limits: tuple[float, float]
) -> None:
    axes.set_yscale(scale)
    axes.set_ylim(*limits)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    y_ticks = {"linear": linear_ticks, "log": log_ticks, "logit": _logit_ticks}[scale](*limits)
    set_ticks(axes, "y", y_ticks if len(y_ticks) > 1 else linear_ticks(*limits))
    ends = [float(np.nanmax(c.steps if against == "steps" else c.seconds, initial=0.0)) for c in curves.values()]
    end = max([e for e in ends if e > 0], default=1.0)
    axes.set_xlim(-0.015 * end, 1.015 * end)
    set_ticks(axes, "x", linear_ticks(0, end, 6))
    axes.set_xlabel("step" if against == "steps" else "training seconds, evaluations left out", labelpad=5, fontsize=10)


def _limits(curves: Mapping[str, Curve], goal: str, target: float, scale: Scale) -> tuple[float, float]:
    """Everything that is better than the start, and a little of what is worse: a run that explodes must not flatten the rest."""
    starts = np.array([c.median[0] for c in curves.values()])
    everything = np.concatenate([np.concatenate([c.median, c.low, c.high]) for c in curves.values()])
    everything = everything[np.isfinite(everything)]
    if math.isfinite(target):
        everything = np.append(everything, target)
    low, high = float(everything.min()), float(everything.max())
    if goal == "min":
        high = min(high, float(starts.max()) + 0.15 * (float(starts.max()) - low)) if starts.max() > low else high
    else:
        low = max(low, float(starts.min()) - 0.15 * (high - float(starts.min()))) if starts.min() < high else low
    if scale == "log":
        positive = everything[everything > 0]
        low = max(low, float(positive.min()))
        room = (high / low) ** 0.04
        return low / room, high * room
    if scale == "logit":
        inner = everything[(everything > 0) & (everything < 1)]
        near, far = (math.log(v / (1 - v)) for v in (max(low, float(inner.min())), min(high, float(inner.max()))))
        room = 0.04 * (far - near) or 0.1
        return 1 / (1 + math.exp(room - near)), 1 / (1 + math.exp(-far - room))
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def _logit_ticks(low: float, high: float) -> list[float]:
    ticks = [t for t in _LOGIT if low <= t <= high]
    return ticks if len(ticks) <= 8 else ticks[::2] if ticks[-1] in ticks[::2] else ticks[1::2]


def _outside(data: Curve, low: float, high: float) -> bool:
    return bool((data.median > high).any() or (data.median < low).any())


def _empty(plot: Plot, axes: Axes, text: str) -> Plot:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)
    plot.description = text
    return plot


def _describe(result: RaceResult, curves: Mapping[str, Curve], name: str, against: Against) -> str:
    ends = [
        f"{shorten(recipe, 60)} ends at {number(c.median[-1])}" + (" and then fails" if c.lost else "")
        for recipe, c in curves.items()
    ]
    return f"Line chart of {clean(name)} against {against}, median over fresh seeds. {'; '.join(ends) or 'No curve'}."


def band_words(result: RaceResult) -> str:
    """What the bands of these plots mean."""
    runs = max((len(result.runs_of(row.name, "fresh")) for row in result.recipes), default=0)
    if runs < 2:
        return "One fresh seed for each recipe, so there is no band."
    band = "from the worst to the best seed" if runs <= MIN_MAX_UP_TO else "between the quartiles"
    text = f"Lines are medians over {count(runs, 'fresh seed')}, bands reach {band}."
    if any(run.outcome != "finished" for run in result.runs if run.phase == "fresh"):
        text += " A cross marks where a run failed; from there on the median counts it as the worst."
    return text
