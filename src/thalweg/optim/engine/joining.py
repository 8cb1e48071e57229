"""Small tensors put together: calling operators for each, or compiling loops for each, would cost more than copying the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine.passes import Call, Done, Pass, Stacked

SMALL = 32_768
"""Elements below which a tensor is small."""

JOIN_FROM, STACK_FROM = 6, 3
"""Small tensors from which putting them together pays: end to end, and on top of each other."""

COMPILED_FROM = 65
"""The same where the call is compiled: copying takes half a millisecond a step, compiling a third of a second a tensor, once."""


@dataclass
class Piece:
    """A part of a call, and how its result becomes that of the parameters at ``places`` of the call."""

    call: Call
    places: Sequence[int]
    finish: Callable[[Done], Done]


def pieces(call: Call, compiled: bool) -> list[Piece]:
    """``call`` cut into what is best run at once: large tensors as they are, small ones joined or stacked where that pays."""
    assert isinstance(call.one_pass, Pass)
    kind = (call.one_pass.sees_each_number_alone, call.one_pass.ends_here and not call.one_pass.draws, compiled)
    if kind not in call.notes:
        call.notes[kind] = _plan(call, *kind)
    rest, groups, together = call.notes[kind]
    if not groups:
        return [Piece(call, range(len(call.params)), _as_it_is)]
    found = [Piece(part_of(call, rest), rest, _as_it_is)] if rest else []
    return found + [together(part_of(call, group), group) for group in groups]


def part_of(call: Call, places: Sequence[int]) -> Call:
    """The call for some of its parameters."""

    def pick(items: Any) -> Any:
        return None if items is None else [items[i] for i in places]

    return replace(
        call,
        params=pick(call.params),
        updates=pick(call.updates),
        states=pick(call.states),
        keys=pick(call.keys),
        sums=pick(call.sums),
        grids=pick(call.grids),
        notes=call.notes.setdefault(tuple(places), {}),
    )


def _plan(
    call: Call, joinable: bool, stackable: bool, compiled: bool
) -> tuple[list[int], list[list[int]], Callable[..., Piece]]:
    """Which tensors stay apart, which go together, and how."""
    small = [i for i, param in enumerate(call.params) if param.numel() < SMALL]
    if compiled and len(small) < COMPILED_FROM:
        small = []
    groups: list[list[int]] = []
    if joinable and len(small) >= JOIN_FROM:
        groups = [small]
    elif stackable and not joinable:
        by_shape: dict[Any, list[int]] = {}
        for i in small:
            by_shape.setdefault(call.grids[i], []).append(i)
        groups = [group for group in by_shape.values() if len(group) >= STACK_FROM]
    apart = {i for group in groups for i in group}
    rest = [i for i in range(len(call.params)) if i not in apart]
    return rest, groups, _joined if joinable else _stacked


def _as_it_is(done: Done) -> Done:
    return done


def _joined(call: Call, places: Sequence[int]) -> Piece:
    """One vector each instead of a list of tensors."""
    keys = _own_state(call)
    if ("strips", keys) not in call.notes:
        strips = {key: _Strip([own[key] for own in call.states]) for key in keys}
        call.notes["strips", keys] = _Strip(call.params), strips
    param, states = call.notes["strips", keys]
    for strip in (param, *states.values()):
        strip.gather()
    update = _Strip(call.updates)

    def finish(done: Done) -> Done:
        for strip in states.values():
            strip.scatter()
        if done[0]:
            return update.cut(done[0][0]), []
        param.scatter()
        return [], []

    whole = replace(
        call,
        params=[param.vector],
        updates=[update.vector],
        states=[{key: strip.vector for key, strip in states.items()}],
        grids=[((param.vector.numel(),), (0,), (param.vector.numel(),))],
        keys=None,
        notes=call.notes.setdefault(("joined", keys), {}),
    )
    return Piece(whole, places, finish)


class _Strip:
    """Tensors end to end in one vector; kept from step to step, so that views are made once."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.vector = torch._utils._flatten_dense_tensors(tensors)
        self._tensors = list(tensors)
        self._pieces: list[Tensor] = []
        self._flat: list[Tensor] = []
        self._new = True

    def gather(self) -> None:
        """Copy the tensors into the vector."""
        if self._new:  # it has just been made of them
            self._new = False
        elif all(t.is_contiguous() for t in self._tensors):
            self._flat = self._flat or [t.view(-1) for t in self._tensors]
            torch.cat(self._flat, out=self.vector)
        else:
            self.vector.copy_(torch._utils._flatten_dense_tensors(self._tensors))

    def scatter(self) -> None:
        """Copy the vector into the tensors."""
        self._pieces = self._pieces or self.cut(self.vector)
        torch._foreach_copy_(self._tensors, self._pieces)

    def cut(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector in the tensors' shapes."""
        found = vector.split([t.numel() for t in self._tensors])
        return [piece.view(t.shape) for piece, t in zip(found, self._tensors, strict=True)]


def _own_state(call: Call) -> tuple[str, ...]:
    """Keys of the state that the call's transforms read and write."""
    assert isinstance(call.one_pass, Pass)
    return tuple(key for transform in call.one_pass.transforms for key in transform.state_keys)


def _stacked(call: Call, places: Sequence[int]) -> Piece:
    """One tensor each with a first dimension more; all shapes are equal."""
    assert isinstance(call.one_pass, Pass)
    param, update = torch.stack(list(call.params)), torch.stack(list(call.updates))
    state = {key: torch.stack([own[key] for own in call.states]) for key in call.states[0]}

    keys = _own_state(call)

    def finish(done: Done) -> Done:
        new_param, *new_state = done[0]
        for key, stack in zip(keys, new_state, strict=True):
            torch._foreach_copy_([own[key] for own in call.states], stack.unbind())
        torch._foreach_copy_(list(call.params), new_param.unbind())
        return [], []

    one_pass = Stacked(call.one_pass, keys)
    grids = [call.grids[0]]
    return Piece(
        replace(call, one_pass=one_pass, params=[param], updates=[update], states=[state], grids=grids, keys=None),
        places,
        finish,
    )
