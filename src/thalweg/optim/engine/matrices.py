"""Parameters seen as matrices: convolutions flattened, equal shapes stacked, so that one call works on many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine.transform import Transform

MAX_STACK = 1 << 25
"""Elements in one stack: larger ones gain nothing and cost memory."""

Shape = tuple[int, int, int]
State = dict[str, Tensor]
StackFunction = Callable[[Tensor, State], Tensor]
"""Takes matrices (batch, m, n) and their state, each tensor (batch, ...); returns the new matrices and assigns new state."""


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


def state_layout(
    transform: Transform, shape: Sequence[int], hypers: Mapping[str, Any], batched: bool
) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Shape and dtype (None: like all other state) of what a matrix transform keeps for a parameter of ``shape``.

    Raises:
        ValueError: the transform can't take such a parameter.
        TypeError: a state without dimensions, which couldn't be sharded.
    """
    batch, m, n = matrix_shape(shape, batched, transform.type.vectors)
    found = {}
    for name, declared in transform.type.matrix_state.items():
        of, dtype = declared if isinstance(declared, tuple) else (declared, None)
        own = tuple(of(m, n, **hypers))
        if not own:
            raise TypeError(f"{transform.type.__name__}: state {name!r} needs a dimension; (1,) holds one number")
        found[name] = (batch, *own) if batched else own, dtype
    return found


def is_batched(group: Mapping[str, Any]) -> bool:
    """Whether the group's parameters are stacks of matrices."""
    return bool(group.get("batched", False))


def as_stack(state: Tensor, batched: bool) -> Tensor:
    """A parameter's state with a first dimension that counts its matrices."""
    return state if batched else state[None]


def map_stacks(
    function: StackFunction, updates: Sequence[Tensor], shapes: Sequence[Shape], states: Sequence[State] | None = None
) -> list[Tensor]:
    """``function`` on stacks ``(batch, m, n)`` of all updates of one matrix shape; results in the updates' own shapes and order.

    Args:
        function: see :data:`StackFunction`.
        updates: a list of the caller's is emptied on the way, so that old and new updates don't all lie in memory at once.
        shapes: the updates' shapes as (batch, m, n).
        states: for each update, tensors ``(batch, ...)`` that go with it; what ``function`` assigns is written into them.
    """
    result = list(updates)  # those without elements stay as they are
    if isinstance(updates, list):
        updates.clear()
    kept: Sequence[State] = [{}] * len(result) if states is None else states
    finished: dict[int, list[Tensor]] = {}
    for stack in _stacks(shapes, kept):
        old = {name: _together([kept[i][name][cut] for i, cut in stack]) for name in kept[stack[0][0]]}
        new = dict(old)
        done = function(_together([result[i].reshape(shapes[i])[cut] for i, cut in stack]), new)
        lengths = [cut.stop - cut.start for _, cut in stack]
        for (i, cut), part in zip(stack, done.split(lengths), strict=True):
            finished.setdefault(i, []).append(part)
            if cut.stop == shapes[i][0]:
                result[i] = _together(finished.pop(i)).reshape(result[i].shape)
        for name in old:
            if new[name] is not old[name]:
                for (i, cut), part in zip(stack, new[name].split(lengths), strict=True):
                    kept[i][name][cut].copy_(part)
    return result


def _together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _stacks(shapes: Sequence[Shape], states: Sequence[State]) -> list[list[tuple[int, slice]]]:
    """Matrices grouped by (m, n) and the shapes of their state: the update's index and which of its matrices.

    A group is cut where it would grow over :data:`MAX_STACK` elements, within an update too.
    """
    groups: dict[Any, list[list[tuple[int, slice]]]] = {}
    room: dict[Any, int] = {}
    for i, (batch, m, n) in enumerate(shapes):
        if m * n == 0:
            continue
        most = max(1, MAX_STACK // (m * n))
        key = m, n, *((name, t.shape[1:], t.dtype) for name, t in states[i].items())
        own = groups.setdefault(key, [])
        first = 0
        while first < batch:
            # An update that fits into one stack isn't torn apart to fill another one up.
            if not room.get(key) or room[key] < batch <= most:
                own.append([])
                room[key] = most
            last = min(batch, first + room[key])
            own[-1].append((i, slice(first, last)))
            room[key] -= last - first
            first = last
    return [stack for own in groups.values() for stack in own]
