"""The best setting on a logarithmic grid that widens while its best point lies at an edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def best_on_log_grid(
    scores: Callable[[list[float]], Sequence[Any]], exponents: Sequence[float], *, halvings: int = 0, widen: int = 8
) -> float:
    """The exponent of ten with the lowest score.

    An optimum at the edge of a grid says that the grid was too narrow, and flatters or wrongs what was tuned on it. So
    points are added beyond such an edge, one at a time; then the spacing is halved around the best one. Of equal scores
    the one nearest to the middle of the first grid wins.

    Args:
        scores: gives the scores, comparable with ``<`` and lower the better, of ``10 ** e`` for every given ``e``.
        exponents: the first grid, evenly spaced, two or more.
        halvings: how often the spacing is halved.
        widen: most points to add; the edge is taken after that, as where no setting works at all.

    Raises:
        ValueError: fewer than two exponents.

    Example:
        >>> best_on_log_grid(lambda es: [abs(e - 2.2) for e in es], [-1.0, 0.0, 1.0], halvings=2)
        2.25
    """
    if len(exponents) < 2:
        raise ValueError("a grid needs at least two exponents")
    spacing = abs(exponents[1] - exponents[0])
    middle = (min(exponents) + max(exponents)) / 2
    known: dict[float, tuple[Any, float, float]] = {}

    def best_with(new: list[float]) -> float:
        known.update({e: (score, abs(e - middle), e) for e, score in zip(new, scores(new), strict=True)})
        return min(known, key=known.__getitem__)

    best = best_with(list(exponents))
    for _ in range(widen):
        if min(known) < best < max(known):
            break
        best = best_with([best + (spacing if best == max(known) else -spacing)])
    for _ in range(halvings):
        spacing /= 2
        best = best_with([best - spacing, best + spacing])
    return best
