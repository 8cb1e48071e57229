"""Extra forward passes in training mode that leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[nn.Module]:
    """Give every buffer its value back afterwards, so that one more pass over a batch doesn't count twice.

    A curvature estimate, or the second pass of a sharpness-aware rule, runs the model as in training, and batch normalization
    would move its running statistics each time. Put the backward pass inside too: buffers may not change between the two.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with unchanged_buffers(norm):
        ...     _ = norm(torch.randn(8, 2))
        >>> norm.running_mean
        tensor([0., 0.])
    """
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield model
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
