"""Parameters that one call of each pass serves, and what a pass sees of them.

Working this out takes longer than a small pass itself, and as a rule nothing of it changes from step to step. So a bucket is kept
for as long as it fits.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine.passes import Grid
from thalweg.optim.engine.sharding import Sharding, all_ordinary, local, sharding_of


class Bucket:
    """Parameters of one group with the same dtype, device, layout and step count.

    Args:
        params: the parameters.
        states: their entries in the optimizer's state.
        names: keys of the tensors in these that passes work on.
        numbers: the parameters' numbers in the optimizer.
        matrix_names: keys of the tensors that go with whole matrices.

    Attributes:
        sharding: how the parameters lie on several processes; None if they don't.
        locals, local_states, grids: what passes work on, and where it lies in the whole.
        notes: what callers found out about the above, good for as long as the bucket is kept.
    """

    def __init__(
        self,
        params: list[Tensor],
        states: list[dict[str, Any]],
        names: Sequence[str],
        numbers: list[int],
        matrix_names: Sequence[str] = (),
    ) -> None:
        self.params, self.states, self.numbers = params, states, numbers
        self.sharding = sharding_of(params[0])
        self.locals = [plain(local(p)) for p in params]
        self.local_states = [{key: plain(local(state[key])) for key in names} for state in states]
        self.grids = [_grid(p, q, self.sharding) for p, q in zip(params, self.locals, strict=True)]
        self.notes: dict[Any, Any] = {}
        self._names = (*names, *matrix_names)
        self._tensors = self._state_tensors()
        self._entries: list[Any] = []  # all of the optimizer's state, of which these parameters' is a part
        self._marks = _marks(params)
        self._plain = self.sharding is None and all(p is q for p, q in zip(params, self.locals, strict=True))

    def fits(self, params: Sequence[Tensor], states: Mapping[Tensor, dict[str, Any]]) -> bool:
        """Whether the bucket serves just these parameters, and neither they nor their state were replaced."""
        if not (self._plain and _same(params, self.params) and _marks(params) == self._marks):
            return False
        entries = list(states.values())
        if not _same(entries, self._entries):  # to look each parameter up takes longer
            if not _same(list(map(states.get, params)), self.states):
                return False
            self._entries = entries
        return _same(self._state_tensors(), self._tensors)

    def plain_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """What passes see of the gradients; they are of the parameters' shapes and as real as these."""
        if self._plain and all_ordinary(gradients):
            return list(gradients)
        return [plain(local(g)) for g in gradients]

    def _state_tensors(self) -> list[Any]:
        names = self._names
        return [state[name] for state in self.states for name in names]


def plain(tensor: Tensor) -> Tensor:
    """A view that a pass can take: complex as pairs of reals; a scalar as a vector, or 64-bit hyper-parameters would widen it."""
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.view(1) if tensor.ndim == 0 else tensor


def _same(items: Sequence[object], others: Sequence[object]) -> bool:
    """Whether both hold the very same objects."""
    return len(items) == len(others) and all(map(operator.is_, items, others))


def _marks(params: Sequence[Tensor]) -> tuple[list[Any], ...]:
    """What changes when something else is put in a parameter's place (``param.data = ...``)."""
    return (
        [p.data_ptr() for p in params],
        [p.dtype for p in params],
        [p.shape for p in params],
        [p.stride() for p in params],
    )


def _grid(param: Tensor, mine: Tensor, sharding: Sharding | None) -> Grid:
    if sharding is not None:
        shard, offsets, whole = sharding.grid(param.shape)
        return ((*shard, 2), (*offsets, 0), (*whole, 2)) if param.is_complex() else (shard, offsets, whole)
    shape = tuple(mine.shape)
    return shape, (0,) * len(shape), shape
