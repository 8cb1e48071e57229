"""Differences between two arms of an experiment, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """What the paired differences of two arms show.

    Args:
        mean: of the differences.
        low, high: Student's 95% interval for the mean; infinite for fewer than two seeds.
        error: standard error of the mean; infinite for fewer than two seeds.
    """

    mean: float
    low: float
    high: float
    error: float

    @property
    def above(self) -> bool:
        """Whether the first arm lies above the second: the whole interval does."""
        return self.low > 0

    @property
    def below(self) -> bool:
        """Whether the first arm lies below the second."""
        return self.high < 0


def difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """The first arm minus the second, over seeds that both ran.

    Args:
        first, second: one number a seed, in the same order of seeds.

    Raises:
        ValueError: the lengths differ, or there is none.

    Example:
        >>> found = difference([3.0, 4.0, 5.0], [2.0, 2.0, 2.0])
        >>> found.mean, round(found.low, 3), found.above
        (2.0, -0.484, False)
    """
    from thalweg.race.statistics import mean_and_error, t_interval

    if len(first) != len(second) or not first:
        raise ValueError(f"paired arms need as many seeds each, not {len(first)} and {len(second)}")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    interval = t_interval(differences)
    if interval is None:
        return Difference(differences[0], float("-inf"), float("inf"), float("inf"))
    mean, error = mean_and_error(differences)
    return Difference(mean, *interval, error)
