"""Many runs' curves as one: median and band over seeds, short enough to be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thalweg.race.records import Goal, Run

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Median and band over runs at each evaluation, or at evenly spaced places where the runs' evaluations don't coincide.

    ``low`` and ``high`` are the smallest and largest value over the runs that are still going, or the quartiles where there
    are more than ``MIN_MAX_UP_TO`` runs. The median counts failed runs as the worst; where the median run itself has failed,
    the curve ends. ``crosses`` are the last values of failed runs: step, seconds, value.
    """

    steps: Array
    seconds: Array
    median: Array
    low: Array
    high: Array
    runs: int
    crosses: tuple[tuple[float, float, float], ...] = ()
    lost: bool = False


MIN_MAX_UP_TO = 9


def curve(
    runs: Sequence[Run],
    key: Literal["metric", "train_loss"],
    goal: Goal,
    against: Literal["steps", "seconds"] = "steps",
) -> Curve | None:
    """The curve of ``runs``, or None if none of them measured anything.

    A run that did not finish counts as the worst possible value from its end on, and so does a value that isn't finite;
    otherwise the median of a method that diverges often would be that of its lucky runs. The curve ends where fewer than half
    of the runs still go on.

    Under a budget in steps every run is evaluated at the same steps. Under one in seconds no two of them are: there each run is
    interpolated linearly between its evaluations, onto places that lie evenly over ``against``.

    Args:
        runs: runs of one recipe.
        key: which curve.
        goal: whether values should go down or up.
        against: what the curve will be drawn over.
    """
    worst = math.inf if goal == "min" else -math.inf
    started = [run for run in runs if run.steps]
    series = [_series(run, key, worst) for run in started]
    grid = np.unique(np.concatenate([line.steps for line in series])) if series else np.empty(0)
    if not grid.size:
        return None
    ends = tuple(end for run in runs if run.outcome != "finished" and (end := _last(run, key)))
    if all(np.array_equal(line.steps, grid[: len(line.steps)]) for line in series):
        return _coinciding(grid, series, worst, ends)
    return _interpolated(series, worst, ends, against)


@dataclass(frozen=True)
class _Series:
    """One run's curve, what isn't finite as the worst value."""

    steps: Array
    seconds: Array
    values: Array
    finished: bool


_Ends = tuple[tuple[float, float, float], ...]


def _coinciding(grid: Array, series: Sequence[_Series], worst: float, ends: _Ends) -> Curve | None:
    """The curve of runs that were evaluated at the same steps, though some of them ended earlier."""
    rows = np.full((len(series), len(grid)), math.nan)
    clock = np.full((len(series), len(grid)), math.nan)
    for i, line in enumerate(series):
        rows[i, : len(line.values)] = line.values
        clock[i, : len(line.values)] = line.seconds
        if not line.finished:
            rows[i, len(line.values) :] = worst
    keep = 2 * (~np.isnan(rows)).sum(0) >= len(series)
    seconds = np.fmax.accumulate(quantile(clock[:, keep], 0.5))  # the median may fall where a slow run ends
    return _aggregate(grid[keep], seconds, rows[:, keep], ends)


def _interpolated(
    series: Sequence[_Series], worst: float, ends: _Ends, against: Literal["steps", "seconds"]
) -> Curve | None:
    """The curve of runs that were evaluated at steps of their own, over steps or over seconds."""
    lines = [(line.steps, line.seconds) if against == "steps" else (line.seconds, line.steps) for line in series]
    places = [x for x, _ in lines if len(x)]
    last = np.array([x[-1] if len(x) else 0.0 for x, _ in lines])
    failed = np.array([not line.finished for line in series])
    # A run that failed counts as the worst for ever; one that finished has nothing to say beyond its end, and must not leave the
    # median to those that failed.
    going = np.array([(~failed & (last >= end)).sum() for end in last])
    shared = last[~failed & (2 * going >= (~failed).sum()) & (going > failed.sum())]
    stop = shared.max() if shared.size else last.max()
    start = min(max(x[0] for x in places), stop)
    grid = np.linspace(start, stop, max(2, int(np.median([len(x) for x in places]))))
    rows = np.array([[worst if bad else math.nan] * len(grid) for bad in failed])
    others = np.full(rows.shape, math.nan)
    for i, (line, (x, other)) in enumerate(zip(series, lines, strict=True)):
        if len(x):
            rows[i] = np.interp(grid, x, line.values, right=math.nan if line.finished else worst)
            others[i] = np.interp(grid, x, other, right=math.nan)
    middle = np.fmax.accumulate(quantile(others, 0.5))
    steps, seconds = (grid, middle) if against == "steps" else (middle, grid)
    return _aggregate(steps, seconds, rows, ends)


def downsample(full: Curve, points: int) -> Curve:
    """``full`` with at most ``points`` points: bins of neighbours keep their median and the whole width of their band."""
    count = len(full.steps)
    if count <= points:
        return full
    inner = np.array_split(np.arange(1, count - 1), max(1, points - 2))
    bins = [np.array([0]), *(bin for bin in inner if len(bin)), np.array([count - 1])]

    def each(values: Array, how: object) -> Array:
        return np.array([how(values[bin]) for bin in bins])  # type: ignore[operator]

    return Curve(
        each(full.steps, np.mean),
        each(full.seconds, np.mean),
        each(full.median, np.median),
        each(full.low, np.min),
        each(full.high, np.max),
        full.runs,
        full.crosses,
        full.lost,
    )


def _series(run: Run, key: str, worst: float) -> _Series:
    """One run's curve; the training loss has no value before the first step, and what isn't finite is the worst."""
    values = np.array(getattr(run, key), dtype=float)
    length = min(len(run.steps), len(run.seconds), len(values))
    first = 1 if key == "train_loss" and length and math.isnan(values[0]) else 0
    values = values[first:length]
    steps, seconds = (np.array(x[first:length], dtype=float) for x in (run.steps, run.seconds))
    return _Series(steps, seconds, np.where(np.isfinite(values), values, worst), run.outcome == "finished")


def _last(run: Run, key: str) -> tuple[float, float, float] | None:
    """Step, seconds and value of the last finite entry of a run's curve."""
    entries = zip(run.steps, run.seconds, getattr(run, key), strict=False)
    good = [(float(step), time, value) for step, time, value in entries if math.isfinite(value)]
    return good[-1] if good else None


def _aggregate(steps: Array, seconds: Array, rows: Array, crosses: _Ends) -> Curve | None:
    if not rows.size:
        return None
    median = quantile(rows, 0.5)
    good = np.isfinite(median)
    if not good.any():
        return None
    lost = bool(not good[-1])
    going = np.where(np.isfinite(rows), rows, math.nan)[:, good]
    low, high = (quantile(going, q) for q in ((0.25, 0.75) if len(rows) > MIN_MAX_UP_TO else (0.0, 1.0)))
    return Curve(steps[good], seconds[good], median[good], low, high, len(rows), crosses, lost)


def quantile(rows: Array, q: float) -> Array:
    """Quantile of each column without its NaNs, NaN where there is nothing else.

    Like :func:`numpy.nanquantile`, which takes a Python call a column, and without its NaN between infinite values.
    """
    ranked = np.sort(rows, axis=0)  # NaNs last
    position = q * np.maximum((~np.isnan(rows)).sum(0) - 1, 0)
    below = np.floor(position).astype(int)
    columns = np.arange(rows.shape[1])
    a, b = ranked[below, columns], ranked[np.ceil(position).astype(int), columns]
    with np.errstate(invalid="ignore"):
        return np.where(a == b, a, a + (b - a) * (position - below))
