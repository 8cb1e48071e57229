"""Reading a data set in batches, in whatever form it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

Batches = Iterable[tuple[Tensor, Tensor]]


def batches(data: Any, batch_size: int | None = None) -> Batches:
    """``(inputs, targets)`` batches that can be read again and again.

    Args:
        data: a pair of tensors ``(X, y)``; a map-style dataset of such pairs; a DataLoader or a list, whose batches are
            taken as they are.
        batch_size: examples in a batch, for the first two forms. ``None``: all at once for tensors, 256 for a dataset.

    Raises:
        ValueError: the pair's lengths differ, or ``data`` can be read only once.

    Example:
        >>> import torch
        >>> [len(y) for x, y in batches((torch.zeros(5, 2), torch.zeros(5)), batch_size=2)]
        [2, 2, 1]
    """
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        inputs, targets = data
        if len(inputs) != len(targets):
            raise ValueError(f"data has {len(inputs)} inputs but {len(targets)} targets")
        size = batch_size or max(1, len(inputs))
        return list(zip(inputs.split(size), targets.split(size), strict=True))
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, list | tuple):
        return DataLoader(data, batch_size or 256)
    if iter(data) is data:
        raise ValueError(
            "data can be read only once: pass tensors (X, y), a dataset, a DataLoader or a list of batches"
        )
    return data
