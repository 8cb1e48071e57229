"""Measuring a model without leaving a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in evaluation mode for a while, then give every sub-module its own mode back.

    ``model.train()`` afterwards would not do: it also wakes sub-modules that were frozen on purpose.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
        >>> with eval_mode(net):
        ...     [m.training for m in net]
        [False, False]
        >>> [m.training for m in net]
        [False, True]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
