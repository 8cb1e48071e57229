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
    """Median and band over runs at each evaluation.

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


def curve(runs: Sequence[Run], key: Literal["metric", "train_loss"], goal: Goal) -> Curve | None:
    """The curve of ``runs``, or None if none of them measured anything.

    A run that did not finish counts as the worst possible value from its end on, and so does a value that isn't finite;
    otherwise the median of a method that diverges often would be that of its lucky runs. Evaluations that fewer than half of
    the runs made are left out: runs under a time limit end at different steps.

    Args:
        runs: runs of one recipe.
        key: which curve.
        goal: whether values should go down or up.
    """
    worst = math.inf if goal == "min" else -math.inf
    started = [run for run in runs if run.steps]
    series = [_series(run, key, worst) for run in started]
    grid = np.unique(np.concatenate([steps for steps, _ in series])) if series else np.empty(0)
    if not grid.size:
        return None
    rows = np.full((len(started), len(grid)), math.nan)
    clock = np.full((len(started), len(grid)), math.nan)
    for i, (run, (steps, values)) in enumerate(zip(started, series, strict=True)):
        rows[i, np.searchsorted(grid, steps)] = values
        first = int(np.searchsorted(run.steps, steps[0])) if len(steps) else 0
        clock[i, np.searchsorted(grid, steps)] = run.seconds[first : first + len(steps)]
        if run.outcome != "finished":
            rows[i, grid > max(steps, default=run.steps[-1])] = worst
    keep = 2 * (~np.isnan(rows)).sum(0) >= len(started)
    ends = tuple(end for run in runs if run.outcome != "finished" and (end := _last(run, key)))
    return _aggregate(grid[keep], rows[:, keep], clock[:, keep], ends)


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


def _series(run: Run, key: str, worst: float) -> tuple[Array, Array]:
    """Steps and values; the training loss has none before the first step, and what isn't finite is the worst."""
    values = np.array(getattr(run, key), dtype=float)
    length = min(len(run.steps), len(run.seconds), len(values))
    first = 1 if key == "train_loss" and length and math.isnan(values[0]) else 0
    values = values[first:length]
    return np.array(run.steps[first:length], dtype=float), np.where(np.isfinite(values), values, worst)


def _last(run: Run, key: str) -> tuple[float, float, float] | None:
    """Step, seconds and value of the last finite entry of a run's curve."""
    entries = zip(run.steps, run.seconds, getattr(run, key), strict=False)
    good = [(float(step), time, value) for step, time, value in entries if math.isfinite(value)]
    return good[-1] if good else None


def _aggregate(grid: Array, rows: Array, clock: Array, crosses: tuple[tuple[float, float, float], ...]) -> Curve | None:
    if not rows.size:
        return None
    median = quantile(rows, 0.5)
    good = np.isfinite(median)
    if not good.any():
        return None
    lost = bool(not good[-1])
    going = np.where(np.isfinite(rows), rows, math.nan)[:, good]
    low, high = (quantile(going, q) for q in ((0.25, 0.75) if len(rows) > MIN_MAX_UP_TO else (0.0, 1.0)))
    return Curve(grid[good], quantile(clock[:, good], 0.5), median[good], low, high, len(rows), crosses, lost)


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
