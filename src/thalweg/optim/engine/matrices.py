"""Parameters seen as matrices: convolutions flattened, equal shapes stacked, so that one call works on many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine.transform import Transform

MAX_STACK = 1 << 25
"""Elements in one stack: larger ones gain nothing and cost memory."""

CACHED = 1 << 22
"""The same on a CPU, where a stack of this size stays in the last cache from one product to the next: at 60M parameters Newton-Schulz
takes a tenth less time."""

CACHED_ALONE = 1 << 18
"""The same for transforms that want large matrices alone: they stay in a core's own cache between operators."""

Shape = tuple[int, int, int]
State = dict[str, Tensor]
StackFunction = Callable[[Tensor, State], tuple[Tensor, Tensor | None]]
"""Takes matrices (batch, m, n) and their state, each tensor (batch, ...); assigns new state, and returns the new matrices with
numbers (batch, m or 1, 1) that rows are yet to be multiplied by, or None."""
Sink = Callable[[int, slice, Tensor], None]
"""Takes the new matrices of an update: its index, which of its matrices they are, and themselves, scaled."""


@dataclass(frozen=True)
class View:
    """How the parameters of a group are matrices.

    Attributes:
        batched: more than two dimensions are stacks of matrices, not (out, rest).
        split: parts of equal height that a matrix is made of, as a fused projection for queries, keys and values is.
        vectors: fewer than two dimensions are one row.
    """

    batched: bool = False
    split: int = 1
    vectors: bool = False

    @classmethod
    def of(cls, group: Mapping[str, Any], vectors: bool) -> View:
        """The view that a parameter group asks for."""
        return cls(bool(group.get("batched", False)), int(group.get("split", 1)), vectors)

    @property
    def many(self) -> bool:
        """Whether a parameter may hold several matrices, so that the first dimension of its state counts them."""
        return self.batched or self.split != 1

    def shape(self, shape: Sequence[int]) -> Shape:
        """``(batch, m, n)`` for a parameter of ``shape``.

        Raises:
            ValueError: fewer than two dimensions, without ``vectors``; rows that can't be split.

        Example:
            >>> View().shape((16, 3, 5, 5)), View(batched=True).shape((8, 64, 32)), View(split=3).shape((96, 32))
            ((1, 16, 75), (8, 64, 32), (3, 32, 32))
        """
        if len(shape) < 2 and not self.vectors:
            raise ValueError(f"a matrix rule needs parameters of two dimensions or more, not shape {tuple(shape)}")
        if len(shape) < 2:
            batch, m, n = 1, 1, math.prod(shape)
        elif self.batched:
            batch, m, n = math.prod(shape[:-2]), shape[-2], shape[-1]
        else:
            batch, m, n = 1, shape[0], math.prod(shape[1:])
        if self.split < 1 or m % self.split:
            raise ValueError(f"split={self.split} doesn't divide the {m} rows of a parameter of shape {tuple(shape)}")
        return batch * self.split, m // self.split, n

    def row_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of one number for each row, or each number of a vector, so that it can be multiplied with the parameter."""
        if len(shape) < 2:
            return tuple(shape)
        kept = len(shape) - 1 if self.batched else 1
        return *shape[:kept], *(1,) * (len(shape) - kept)

    def spread(self, scale: Tensor, shape: Sequence[int]) -> Tensor:
        """The scale of a parameter's rows in :meth:`row_shape`."""
        rows = self.row_shape(shape)
        return scale.expand(rows) if len(rows) < 2 else scale.view(rows)

    def as_stack(self, state: Tensor) -> Tensor:
        """A parameter's state with a first dimension that counts its matrices."""
        return state if self.many else state[None]


def state_layout(
    transform: Transform, shape: Sequence[int], hypers: Mapping[str, Any], view: View
) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """Shape and dtype (None: like all other state) of what a matrix transform keeps for a parameter of ``shape``.

    Raises:
        ValueError: the transform can't take such a parameter.
        TypeError: a state without dimensions, which couldn't be sharded.
    """
    batch, m, n = view.shape(shape)
    found = {}
    for name, declared in transform.type.matrix_state.items():
        of, dtype = declared if isinstance(declared, tuple) else (declared, None)
        own = tuple(of(m, n, **hypers))
        if not own:
            raise TypeError(f"{transform.type.__name__}: state {name!r} needs a dimension; (1,) holds one number")
        found[name] = (batch, *own) if view.many else own, dtype
    return found


def map_stacks(
    function: StackFunction,
    updates: Sequence[Tensor],
    shapes: Sequence[Shape],
    states: Sequence[State] | None = None,
    most: int | None = None,
    sink: Sink | None = None,
    finished: frozenset[int] = frozenset(),
) -> tuple[list[Tensor], list[Tensor | None]]:
    """``function`` on stacks ``(batch, m, n)`` of all updates of one matrix shape; results in the updates' own shapes and order, and
    for each its rows' scale ``(batch * m,)``, if there is one.

    Args:
        function: see :data:`StackFunction`.
        updates: a list of the caller's is emptied on the way, so that old and new updates don't all lie in memory at once.
        shapes: the updates' shapes as (batch, m, n).
        states: for each update, tensors ``(batch, ...)`` that go with it; what ``function`` assigns is written into them.
        most: elements in one stack (default :data:`MAX_STACK`).
        sink: takes every result as soon as there is one; then those returned mean nothing.
        finished: places of updates that are to stay as they are.
    """
    result = list(updates)  # those without elements stay as they are
    scales: list[Tensor | None] = [None] * len(result)
    if isinstance(updates, list):
        updates.clear()
    kept: Sequence[State] = [{}] * len(result) if states is None else states
    begun: dict[int, list[tuple[Tensor, Tensor | None]]] = {}
    for stack in _stacks([(0, 0, 0) if i in finished else s for i, s in enumerate(shapes)], kept, most or MAX_STACK):
        old = {name: _together([kept[i][name][cut] for i, cut in stack]) for name in kept[stack[0][0]]}
        new = dict(old)
        done, scale = function(_together([result[i].reshape(shapes[i])[cut] for i, cut in stack]), new)
        for (i, cut), part, own in _parts(stack, done, scale):
            if sink is not None:
                sink(i, cut, part if own is None else part * own.view(*part.shape[:2], 1))
                continue
            begun.setdefault(i, []).append((part, own))
            if cut.stop == shapes[i][0]:
                parts = begun.pop(i)
                result[i] = _together([part for part, _ in parts]).reshape(result[i].shape)
                scales[i] = _together([own for _, own in parts if own is not None]) if own is not None else None
        for name in old:
            if new[name] is not old[name]:
                for (i, cut), part in zip(stack, new[name].split(_lengths(stack)), strict=True):
                    store(part, kept[i][name][cut])
    return result, scales


def store(new: Tensor, kept: Tensor) -> None:
    """Copy new state into what is kept, unless that was changed in place."""
    if new.data_ptr() != kept.data_ptr():
        kept.copy_(new)


def _parts(
    stack: list[tuple[int, slice]], done: Tensor, scale: Tensor | None
) -> Iterator[tuple[tuple[int, slice], Tensor, Tensor | None]]:
    """What was made of each member of a stack, and its scale ``(batch * m,)``."""
    lengths = _lengths(stack)
    rows = [None] * len(stack) if scale is None else scale.expand(*done.shape[:2], 1).split(lengths)
    for member, part, own in zip(stack, done.split(lengths), rows, strict=True):
        yield member, part, None if own is None else own.reshape(-1)


def _lengths(stack: list[tuple[int, slice]]) -> list[int]:
    return [cut.stop - cut.start for _, cut in stack]


def _together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _stacks(shapes: Sequence[Shape], states: Sequence[State], limit: int) -> list[list[tuple[int, slice]]]:
    """Matrices grouped by (m, n) and the shapes of their state: the update's index and which of its matrices.

    A group is cut where it would grow over ``limit`` elements, within an update too.
    """
    groups: dict[Any, list[list[tuple[int, slice]]]] = {}
    room: dict[Any, int] = {}
    for i, (batch, m, n) in enumerate(shapes):
        if m * n == 0:
            continue
        most = max(1, limit // (m * n))
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
