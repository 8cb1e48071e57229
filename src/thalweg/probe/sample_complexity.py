"""How many samples a learner needs for a given error, from its errors at several sample sizes (arXiv:2403.15707)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def sample_complexity(
    sizes: Sequence[float], errors: Sequence[float], target: float, *, interpolate: bool = False
) -> float:
    """The smallest sample size from which on every larger one tried has at most the target error.

    So one lucky small sample isn't enough. A grid of sizes bounds what can be found: the smallest size means "this or less",
    infinity "more than the largest".

    Args:
        sizes: sample sizes, positive and increasing.
        errors: mean error at each, at least 0.
        target: error asked for, positive.
        interpolate: give the point between that size and the one before where a straight line through the logarithms of
            size and error meets the target, so that ratios don't jump by the spacing of the grid.

    Returns:
        The size; ``math.inf`` if the largest one still has a larger error.

    Raises:
        ValueError: no sizes, sizes that don't increase, as many errors as sizes are not given, or a target not above 0.

    Example:
        >>> sample_complexity([2, 4, 8, 16], [0.3, 0.02, 0.08, 0.01], 0.03)
        16.0
        >>> sample_complexity([10, 100], [0.1, 0.001], 0.01, interpolate=True)
        31.622776601683796
    """
    if not sizes or len(sizes) != len(errors):
        raise ValueError(f"give an error for each size, not {len(errors)} for {len(sizes)}")
    if sizes[0] <= 0 or any(b <= a for a, b in itertools.pairwise(sizes)) or not target > 0:
        raise ValueError("sizes must be positive and increase, and target must be positive")
    missed = [i for i, error in enumerate(errors) if not error <= target]
    if not missed:
        return float(sizes[0])
    last = missed[-1]
    if last + 1 == len(sizes):
        return math.inf
    if not interpolate or errors[last + 1] <= 0:  # from nothing the line falls straight down at the larger size
        return float(sizes[last + 1])
    share = math.log(errors[last] / target) / math.log(errors[last] / errors[last + 1])
    return float(sizes[last] * (sizes[last + 1] / sizes[last]) ** share)
