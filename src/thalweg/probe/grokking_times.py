"""When a network has fitted its training data, and when it generalizes (arXiv:2310.02541 and others on grokking)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class GrokkingTimes(NamedTuple):
    """What :func:`grokking_times` gives; infinity for what never happens.

    Args:
        fitted: first of the steps at which training accuracy is high enough.
        general: the same of test accuracy.

    Example:
        >>> GrokkingTimes(10.0, 1000.0).ratio
        100.0
    """

    fitted: float
    general: float

    @property
    def ratio(self) -> float:
        """How many times later the network generalizes than it fits; infinite if it never does either."""
        return math.inf if math.isinf(self.general) else self.general / max(self.fitted, 1.0)


def grokking_times(
    steps: Sequence[float] | Tensor,
    train: Sequence[float] | Tensor,
    test: Sequence[float] | Tensor,
    *,
    fitted: float = 0.99,
    general: float = 0.95,
) -> GrokkingTimes:
    """First steps at which training and test accuracy reach their thresholds.

    Args:
        steps: at which the accuracies were measured, ascending, ``(T,)``.
        train, test: accuracies between 0 and 1, ``(T,)``.
        fitted: training accuracy that counts as fitted.
        general: test accuracy that counts as generalizing.

    Raises:
        ValueError: the three differ in length, or are empty.

    Example:
        >>> grokking_times([1, 10, 100], [0.4, 1.0, 1.0], [0.1, 0.1, 0.97])
        GrokkingTimes(fitted=10.0, general=100.0)
    """
    if not len(steps) == len(train) == len(test) > 0:
        raise ValueError(f"steps, train and test must be of one length, not {len(steps)}, {len(train)} and {len(test)}")

    def first(course: Sequence[float] | Tensor, threshold: float) -> float:
        return next((float(t) for t, value in zip(steps, course, strict=True) if value >= threshold), math.inf)

    return GrokkingTimes(first(train, fitted), first(test, general))
