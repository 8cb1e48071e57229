"""The learning-rate schedule of a race, the same for every recipe."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

Schedule = Literal["cosine", "constant"]

WARM_UP = 0.05
"""Share of the budget over which the learning rate rises linearly."""


def factor(progress: float, one_step: float, schedule: Schedule = "cosine") -> float:
    """What the learning rate is multiplied by.

    With ``p`` the share of the budget used before the step, ``h`` the share that one step uses and ``w`` =
    :data:`WARM_UP`: ``min(1, (p + h) / w)`` while ``p < w``, then ``(1 + cos(pi (p - w) / (1 - w))) / 2``.

    Args:
        progress: ``p``, between 0 and 1.
        one_step: ``h``; it makes the first step larger than 0.
        schedule: ``"constant"`` gives 1.

    Example:
        >>> [round(factor(step / 100, 1 / 100), 2) for step in (0, 4, 5, 52, 99)]
        [0.2, 1.0, 1.0, 0.51, 0.0]
    """
    if schedule == "constant":
        return 1.0
    if progress < WARM_UP:
        return min(1.0, (progress + one_step) / WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


class ScheduledRates:
    """Sets the learning rate of every parameter group to its start value times a factor.

    A learning rate held as a tensor (as compiled optimizers like it) is changed in place.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._groups = optimizer.param_groups
        self._start = [float(group["lr"]) for group in self._groups]

    def scale(self, by: float) -> None:
        """Set every group's learning rate to ``by`` times its start."""
        for group, start in zip(self._groups, self._start, strict=True):
            _set(group, start * by)


def _set(group: dict[str, Any], lr: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(lr)
    else:
        group["lr"] = lr
