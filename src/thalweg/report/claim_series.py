"""The curves of a claim's seeds as lines to be drawn: one for each label and role of a panel, with its band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thalweg.claims.engine.contract import Curve as SeedCurve
from thalweg.claims.engine.contract import Panel, Result, Role
from thalweg.report.curves import MIN_MAX_UP_TO, Array, Curve, downsample, quantile
from thalweg.report.palette import SERIES, Mark, mark

_DASHES: dict[Role, tuple[float, ...]] = {"measured": (), "theory": (5, 2.5), "control": (1.2, 1.8)}
_MOST_POINTS, _FEWEST_POINTS, _BUDGET = 160, 40, 1600


@dataclass(frozen=True)
class Series:
    """One line of a panel: its median and band over seeds, or the seeds' own lines where they can't be put together.

    Args:
        label, role: the curve's.
        look: colour, dash and marker; single lines have no marker.
        curve: ``steps`` are the x coordinates; ``median``, ``low`` and ``high`` the y coordinates, NaN where there is a gap.
        single: lines of single seeds, x and y, where there is no ``curve``.
    """

    label: str
    role: Role
    look: Mark
    curve: Curve | None
    single: tuple[tuple[Array, Array], ...] = ()

    @property
    def values(self) -> Array:
        """All y coordinates."""
        if self.curve is None:
            return np.concatenate([y for _, y in self.single])
        return np.concatenate([self.curve.median, self.curve.low, self.curve.high])

    @property
    def places(self) -> Array:
        """All x coordinates."""
        return np.concatenate([x for x, _ in self.single]) if self.curve is None else self.curve.steps

    @property
    def path(self) -> tuple[Array, Array]:
        """The line to describe: the median, or the first seed's."""
        return self.single[0] if self.curve is None else (self.curve.steps, self.curve.median)


def series_of(result: Result, panel: Panel) -> list[Series]:
    """The lines of one panel, in the order in which the claim gave them; what has no finite value is left out."""
    slots = _slots(result)
    groups: dict[tuple[str, Role], list[SeedCurve]] = {}
    for measurement in result.measurements:
        for curve in measurement.curves:
            if curve.panel == panel.key:
                groups.setdefault((curve.label, curve.role), []).append(curve)
    theories = sum(role == "theory" for _, role in groups)
    points = max(_FEWEST_POINTS, min(_MOST_POINTS, _BUDGET // max(1, len(groups))))
    found = []
    for (label, role), curves in groups.items():
        look = _look(slots[label], role, theories)
        line = _series(label, role, look, curves, panel, points)
        if np.isfinite(line.values).any():
            found.append(line)
    return found


def band_words(result: Result) -> str:
    """What lines and bands of the figure mean."""
    seeds = len(result.measurements)
    if seeds < 2:
        return "One seed, so there is no band."
    reach = "from the smallest to the largest" if seeds <= MIN_MAX_UP_TO else "between the quartiles"
    return f"Lines are medians over {seeds} seeds, bands reach {reach}."


def _slots(result: Result) -> dict[str, int]:
    """A number for each label, the same in all panels, and another than that of any label that shares a panel with it.

    Measured lines choose first and theory last, since it needs no colour; so few labels a panel need few colours in all.
    """
    curves = [curve for measurement in result.measurements for curve in measurement.curves]
    panels: dict[str, set[str]] = {}
    for curve in curves:
        panels.setdefault(curve.panel, set()).add(curve.label)
    ranked = sorted(curves, key=lambda curve: ("measured", "control", "theory").index(curve.role))
    slots: dict[str, int] = {}
    for label in dict.fromkeys(curve.label for curve in ranked):
        taken = {slots.get(other) for labels in panels.values() if label in labels for other in labels}
        slots[label] = next(slot for slot in range(len(taken) + 1) if slot not in taken)
    return slots


def _look(slot: int, role: Role, theories: int) -> Mark:
    """Measured and control lines in a colour of their own, theory in ink over them; markers tell apart without colour."""
    base = mark(slot)
    colour = SERIES[0] if role == "theory" else SERIES[1 + slot % (len(SERIES) - 1)]
    marker = "" if role == "theory" and theories == 1 else base.marker
    return Mark(slot, colour, _DASHES[role], marker, hollow=role == "theory")


def _series(label: str, role: Role, look: Mark, curves: Sequence[SeedCurve], panel: Panel, points: int) -> Series:
    lines = [_rising(_shown(curve.x, "x" in panel.log), _shown(curve.y, "y" in panel.log)) for curve in curves]
    first = lines[0][0]
    if all(np.array_equal(x, first, equal_nan=True) for x, _ in lines):
        return Series(label, role, look, downsample(_together(first, np.stack([y for _, y in lines])), points))
    if all(len(x) and (np.diff(x) > 0).all() for x, _ in lines):
        grid = _grid([x for x, _ in lines], _MOST_POINTS, "x" in panel.log)
        rows = np.stack([_along(x, y, grid, "x" in panel.log) for x, y in lines])
        covered = 2 * np.isfinite(rows).sum(0) >= len(rows)
        if covered.any():
            return Series(label, role, look, downsample(_together(grid[covered], rows[:, covered]), points))
    return Series(label, role, replace(look, marker=""), None, tuple(lines))


def _rising(x: Array, y: Array) -> tuple[Array, Array]:
    """A line that was given from right to left is the same line from left to right."""
    return (x[::-1], y[::-1]) if (np.diff(x) < 0).all() else (x, y)


def _shown(values: Sequence[float], log: bool) -> Array:
    """The values, NaN where the axis has no place for them."""
    found = np.asarray(values, dtype=float)
    good = np.isfinite(found) & (found > 0) if log else np.isfinite(found)
    return np.where(good, found, np.nan)


def _together(x: Array, rows: Array) -> Curve:
    """Median and band of the seeds' values, one row each."""
    inner = (0.25, 0.75) if len(rows) > MIN_MAX_UP_TO else (0.0, 1.0)
    low, high = (quantile(rows, q) for q in inner)
    return Curve(x, x, quantile(rows, 0.5), low, high, len(rows))


def _grid(places: Sequence[Array], most: int, log: bool) -> Array:
    """Places at which all seeds are compared: all of theirs, or evenly spread ones where these are too many."""
    union = np.unique(np.concatenate(places))
    if len(union) <= most:
        return union
    return np.geomspace(union[0], union[-1], most) if log else np.linspace(union[0], union[-1], most)


def _along(x: Array, y: Array, grid: Array, log: bool) -> Array:
    """One seed's line at ``grid``, straight between its points as the axis shows them; NaN outside its range."""
    inside = (grid >= x[0] * (1 - 1e-12)) & (grid <= x[-1] * (1 + 1e-12)) if log else (grid >= x[0]) & (grid <= x[-1])
    places, own = (np.log(grid), np.log(x)) if log else (grid, x)
    return np.where(inside, np.interp(places, own, y), np.nan)
