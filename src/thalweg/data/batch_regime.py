"""How learning rate and schedule follow the batch size (arXiv:1705.08741)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def sqrt_lr_scale(lr: float, batch: int, base_batch: int = 128) -> float:
    r"""Learning rate for another batch size: :math:`\eta \sqrt{B / B_0}`.

    It keeps the covariance of one SGD update, which goes as :math:`\eta^2 / B`.

    Args:
        lr: learning rate that suits ``base_batch``.
        batch: batch size B wanted.
        base_batch: batch size :math:`B_0` of ``lr``.

    Raises:
        ValueError: a batch size is below 1.

    Example:
        >>> sqrt_lr_scale(0.1, 2048)
        0.4
    """
    _check(batch, base_batch)
    return lr * math.sqrt(batch / base_batch)


def adapt_regime(milestones: Sequence[int], epochs: int, batch: int, base_batch: int = 128) -> tuple[list[int], int]:
    r"""Stretch a schedule in epochs by :math:`\lceil B / B_0 \rceil`, so that a larger batch makes as many updates.

    Args:
        milestones: epochs at which the schedule changes.
        epochs: total number of epochs.
        batch: batch size B wanted.
        base_batch: batch size :math:`B_0` of the given schedule.

    Returns:
        The new milestones and the new number of epochs.

    Raises:
        ValueError: a batch size is below 1.

    Example:
        >>> adapt_regime([81, 122], 164, batch=2048)
        ([1296, 1952], 2624)
    """
    _check(batch, base_batch)
    stretch = -(-batch // base_batch)
    return [stretch * milestone for milestone in milestones], stretch * epochs


def _check(batch: int, base_batch: int) -> None:
    if batch < 1 or base_batch < 1:
        raise ValueError(f"batch sizes must be at least 1, not {batch} and {base_batch}")
