"""Matrices split by rows over processes, each worked on by one of them: its owner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from thalweg.optim.engine.exchange import Exchange
from thalweg.optim.engine.matrices import Shape, StackFunction, State, View, map_stacks

ROUND = 1 << 22
"""Elements of a round on each process: so many that starting a collective costs little beside it."""

MOST_ROUNDS = 8
"""Rounds in a step: two of them are in memory at once."""


class _Rows(NamedTuple):
    """A tensor of which each process holds some rows."""

    dtype: torch.dtype
    whole: tuple[int, ...]

    def numel_on(self, rank: int, world: int) -> int:
        """How many of its numbers lie on a process: equal chunks of rows, the last ones shorter or empty."""
        rows, *rest = self.whole
        chunk = -(-rows // world)
        return max(0, min(chunk, rows - rank * chunk)) * torch.Size(rest).numel()


def map_on_owners(
    function: StackFunction,
    updates: list[Tensor],
    wholes: Sequence[tuple[int, ...]],
    shapes: Sequence[Shape],
    states: Sequence[State],
    view: View,
    group: Any,
) -> tuple[list[Tensor], list[Tensor | None]]:
    """See :meth:`thalweg.optim.engine.sharding.Sharding.map_matrices`; ``group`` are the processes.

    Many matrices are worked on in rounds: while one round's are, those of the next are on their way to their owners, and those of
    the one before on their way back.
    """
    names = list(states[0])
    kept = [[_local(t) for t in state.values()] for state in states]
    here = [[update, *state] for update, state in zip(updates, kept, strict=True)]
    there = [
        [
            _Rows(t.dtype, whole)
            for t, whole in zip(own, [whole, *(tuple(t.shape) for t in state.values())], strict=True)
        ]
        for own, whole, state in zip(here, wholes, states, strict=True)
    ]
    local_shapes, sample = [update.shape for update in updates], updates[0].new_empty(0)
    updates.clear()
    rank = dist.get_rank(group)
    rounds = _rounds(_share_out(shapes, dist.get_world_size(group)), shapes)
    new_updates: list[Tensor] = [sample] * len(shapes)
    new_scales: list[Tensor | None] = [None] * len(shapes)
    results: _Results | None = None

    def hand_in(returning: _Returning) -> None:
        assert results is not None
        for i, (new, *rest) in returning.wait().items():
            for mine_now, flat in zip(kept[i], rest[len(rest) - len(kept[i]) :], strict=True):
                mine_now.copy_(flat.view(mine_now.shape))
            new_updates[i] = new.view(local_shapes[i])
            new_scales[i] = None if results.scale is None else rest[0]

    arriving = _Arriving(here, there, rounds[0], sample.device, group)
    returning: _Returning | None = None
    for number, owned in enumerate(rounds):
        gathered = arriving.wait()
        if number + 1 < len(rounds):
            arriving = _Arriving(here, there, rounds[number + 1], sample.device, group)
        stacks = [{name: view.as_stack(t) for name, t in zip(names, own[1:], strict=True)} for own in gathered]
        done, scales = map_stacks(function, [own[0] for own in gathered], [shapes[i] for i in owned[rank]], stacks)
        if results is None:
            results = _Results.of(done, scales) or _Results.by_trial(function, sample, there, shapes, names, view)
        back = [results.of_one(d, scale, view) + own[1:] for d, scale, own in zip(done, scales, gathered, strict=True)]
        back_there = {i: results.rows(wholes[i], view) + there[i][1:] for own in owned for i in own}
        before, returning = returning, _Returning(back, back_there, owned, sample.device, group)
        if before is not None:
            hand_in(before)
    assert returning is not None
    hand_in(returning)
    return new_updates, new_scales


class _Results(NamedTuple):
    """Dtypes of what a function on stacks returns: of the matrices, and of their rows' scales, if there are any."""

    matrices: torch.dtype
    scale: torch.dtype | None

    @classmethod
    def of(cls, done: Sequence[Tensor], scales: Sequence[Tensor | None]) -> _Results | None:
        """As seen, if anything was."""
        for tensor, scale in zip(done, scales, strict=True):
            if tensor.numel():
                return cls(tensor.dtype, None if scale is None else scale.dtype)
        return None

    @classmethod
    def by_trial(
        cls,
        function: StackFunction,
        sample: Tensor,
        there: Sequence[Sequence[_Rows]],
        shapes: Sequence[Shape],
        names: Sequence[str],
        view: View,
    ) -> _Results:
        """As seen with zeros, by a process that owns no matrix; the others work on theirs meanwhile."""
        for (update, *state), (_, m, n) in zip(there, shapes, strict=True):
            if torch.Size(update.whole).numel():
                one = {
                    name: sample.new_zeros(1, *rows.whole[view.many :], dtype=rows.dtype)
                    for name, rows in zip(names, state, strict=True)
                }
                done, scale = function(sample.new_zeros(1, m, n), one)
                return cls(done.dtype, None if scale is None else scale.dtype)
        return cls(sample.dtype, None)

    def of_one(self, done: Tensor, scale: Tensor | None, view: View) -> list[Tensor]:
        """What the owner of a matrix sends back."""
        if self.scale is None:
            return [done.to(self.matrices)]
        rows = view.row_shape(done.shape)
        spread = done.new_ones(rows, dtype=self.scale) if scale is None else view.spread(scale, done.shape)
        return [done.to(self.matrices), spread]

    def rows(self, whole: tuple[int, ...], view: View) -> list[_Rows]:
        """How that is split."""
        matrix = _Rows(self.matrices, whole)
        return [matrix] if self.scale is None else [matrix, _Rows(self.scale, view.row_shape(whole))]


def _local(tensor: Any) -> Tensor:
    return tensor.to_local()


class _Arriving:
    """Matrices on their way to their owners; what ``here`` holds of them is let go."""

    def __init__(
        self,
        here: list[list[Tensor]],
        there: Sequence[Sequence[_Rows]],
        owned: Sequence[Sequence[int]],
        device: torch.device,
        group: Any,
    ) -> None:
        world = len(owned)
        outgoing = [[t for i in own for t in here[i]] for own in owned]
        self._own = [list(there[i]) for i in owned[dist.get_rank(group)]]
        wanted = [rows for own in self._own for rows in own]
        incoming = [[(rows.dtype, rows.numel_on(r, world)) for rows in wanted] for r in range(world)]
        self._exchange = Exchange(outgoing, incoming, device, group)
        for own in owned:
            for i in own:
                here[i] = []

    def wait(self) -> list[list[Tensor]]:
        """The whole tensors of each matrix that this process owns."""
        parts = iter(zip(*self._exchange.wait(), strict=True))
        return [[torch.cat(next(parts)).view(rows.whole) for rows in own] for own in self._own]


class _Returning:
    """Matrices on their way back; ``whole`` are the tensors of those that this process owns."""

    def __init__(
        self,
        whole: Sequence[Sequence[Tensor]],
        there: Mapping[int, Sequence[_Rows]],
        owned: Sequence[Sequence[int]],
        device: torch.device,
        group: Any,
    ) -> None:
        rank, world = dist.get_rank(group), len(owned)
        outgoing: list[list[Tensor]] = [[] for _ in range(world)]
        for i, tensors in zip(owned[rank], whole, strict=True):
            for tensor, rows in zip(tensors, there[i], strict=True):
                for r, part in enumerate(tensor.reshape(-1).split([rows.numel_on(r, world) for r in range(world)])):
                    outgoing[r].append(part)
        incoming = [[(rows.dtype, rows.numel_on(rank, world)) for i in own for rows in there[i]] for own in owned]
        self._exchange = Exchange(outgoing, incoming, device, group)
        self._owned, self._counts = owned, {i: len(rows) for i, rows in there.items()}

    def wait(self) -> dict[int, list[Tensor]]:
        """This process's rows, as vectors, of the tensors of each matrix."""
        received = [iter(parts) for parts in self._exchange.wait()]
        return {
            i: [next(parts) for _ in range(self._counts[i])]
            for own, parts in zip(self._owned, received, strict=True)
            for i in own
        }


def _rounds(owned: Sequence[Sequence[int]], shapes: Sequence[Shape]) -> list[list[list[int]]]:
    """The matrices of each process cut into rounds of about equal size: ``[round][process]``; equal shapes stay together."""
    size = [batch * m * n for batch, m, n in shapes]
    most = max(sum(size[i] for i in own) for own in owned)
    count = max(1, min(MOST_ROUNDS, most // ROUND, max(map(len, owned))))
    rounds: list[list[list[int]]] = [[[] for _ in owned] for _ in range(count)]
    for process, own in enumerate(owned):
        before, total = 0, max(1, sum(size[i] for i in own))
        for i in own:
            rounds[min(before * count // total, count - 1)][process].append(i)
            before += size[i]
    return rounds


def _share_out(shapes: Sequence[Shape], world: int) -> list[list[int]]:
    """Matrices for each process: the costliest first, each to the one with the least work so far."""

    def cost(shape: Shape) -> int:
        batch, m, n = shape
        return batch * m * n * min(m, n)

    owned: list[list[int]] = [[] for _ in range(world)]
    load = [0] * world
    for i in sorted(range(len(shapes)), key=lambda i: -cost(shapes[i])):
        r = load.index(min(load))
        owned[r].append(i)
        load[r] += cost(shapes[i])
    return owned
