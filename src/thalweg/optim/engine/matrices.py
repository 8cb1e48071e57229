"""Parameters seen as matrices: convolutions flattened, equal shapes stacked, so that one call works on many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

MAX_STACK = 1 << 25
"""Elements in one stack: larger ones gain nothing and cost memory."""

Shape = tuple[int, int, int]


def matrix_shape(shape: Sequence[int], batched: bool = False, vectors: bool = False) -> Shape:
    """``(batch, m, n)`` for a parameter of ``shape``: more than two dimensions become ``(out, rest)``, or, if ``batched``, keep
    their last two. With ``vectors``, fewer than two dimensions are one row.

    Raises:
        ValueError: fewer than two dimensions, without ``vectors``.

    Example:
        >>> matrix_shape((16, 3, 5, 5))
        (1, 16, 75)
        >>> matrix_shape((8, 64, 32), batched=True)
        (8, 64, 32)
    """
    if len(shape) < 2 and vectors:
        return 1, 1, math.prod(shape)
    if len(shape) < 2:
        raise ValueError(f"a matrix rule needs parameters of two dimensions or more, not shape {tuple(shape)}")
    if batched:
        return math.prod(shape[:-2]), shape[-2], shape[-1]
    return 1, shape[0], math.prod(shape[1:])


def map_stacks(
    function: Callable[[Tensor], Tensor], updates: Sequence[Tensor], shapes: Sequence[Shape]
) -> list[Tensor]:
    """``function`` on stacks ``(batch, m, n)`` of all updates of one matrix shape; results in the updates' own shapes and order."""
    result = list(updates)  # those without elements stay as they are
    for members in _stacks(shapes):
        parts = [updates[i].reshape(shapes[i]) for i in members]
        done = function(parts[0] if len(parts) == 1 else torch.cat(parts))
        for i, part in zip(members, done.split([shapes[i][0] for i in members]), strict=True):
            result[i] = part.reshape(updates[i].shape)
    return result


def _stacks(shapes: Sequence[Shape]) -> list[list[int]]:
    """Indices grouped by (m, n), each group cut where it grows over :data:`MAX_STACK` elements."""
    groups: dict[tuple[int, int], list[list[int]]] = {}
    sizes: dict[tuple[int, int], int] = {}
    for i, (batch, m, n) in enumerate(shapes):
        if batch * m * n == 0:
            continue
        own, size = groups.setdefault((m, n), [[]]), batch * m * n
        if own[-1] and sizes[m, n] + size > MAX_STACK:
            own.append([])
            sizes[m, n] = 0
        own[-1].append(i)
        sizes[m, n] = sizes.get((m, n), 0) + size
    return [members for own in groups.values() for members in own]
