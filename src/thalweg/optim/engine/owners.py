"""Matrices split by rows over processes, each worked on by one of them: its owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from thalweg.optim.engine.matrices import Shape, StackFunction, State, View, map_stacks


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
    """See :meth:`thalweg.optim.engine.sharding.Sharding.map_matrices`; ``group`` are the processes."""
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
    owned = _share_out(shapes, dist.get_world_size(group))
    mine = owned[dist.get_rank(group)]

    gathered = _to_owners(here, there, owned, group)
    del here
    stacks = [{name: view.as_stack(t) for name, t in zip(names, own[1:], strict=True)} for own in gathered]
    done, scales = map_stacks(function, [own[0] for own in gathered], [shapes[i] for i in mine], stacks)
    results = _Results.of(done, scales) or _Results.by_trial(function, sample, there, shapes, names, view)
    back = [results.of_one(d, scale, view) + own[1:] for d, scale, own in zip(done, scales, gathered, strict=True)]
    back_there = [results.rows(whole, view) + own[1:] for whole, own in zip(wholes, there, strict=True)]
    returned = _from_owners(back, back_there, owned, sample.device, group)
    for new, state in zip(returned, kept, strict=True):
        for mine_now, flat in zip(state, new[len(new) - len(state) :], strict=True):
            mine_now.copy_(flat.view(mine_now.shape))
    scaled = results.scale is not None
    new_updates = [new[0].view(shape) for new, shape in zip(returned, local_shapes, strict=True)]
    return new_updates, [new[1] if scaled else None for new in returned]


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


def _to_owners(
    here: Sequence[Sequence[Tensor]], there: Sequence[Sequence[_Rows]], owned: Sequence[Sequence[int]], group: Any
) -> list[list[Tensor]]:
    """The whole tensors of each matrix that this process owns."""
    world = len(owned)
    outgoing = [[t for i in owned[r] for t in here[i]] for r in range(world)]
    mine = owned[dist.get_rank(group)]
    wanted = [rows for i in mine for rows in there[i]]
    incoming = [[(rows.dtype, rows.numel_on(r, world)) for rows in wanted] for r in range(world)]
    received = _exchange(outgoing, incoming, here[0][0].device, group)
    pieces = zip(wanted, zip(*received, strict=True), strict=True)
    whole = iter([torch.cat(parts).view(rows.whole) for rows, parts in pieces])
    return [[next(whole) for _ in there[i]] for i in mine]


def _from_owners(
    whole: Sequence[Sequence[Tensor]],
    there: Sequence[Sequence[_Rows]],
    owned: Sequence[Sequence[int]],
    device: torch.device,
    group: Any,
) -> list[list[Tensor]]:
    """This process's rows, as vectors, of the tensors of all matrices; ``whole`` are those of the matrices that it owns."""
    rank, world = dist.get_rank(group), len(owned)
    outgoing: list[list[Tensor]] = [[] for _ in range(world)]
    for i, tensors in zip(owned[rank], whole, strict=True):
        for tensor, rows in zip(tensors, there[i], strict=True):
            for r, part in enumerate(tensor.reshape(-1).split([rows.numel_on(r, world) for r in range(world)])):
                outgoing[r].append(part)
    incoming = [[(rows.dtype, rows.numel_on(rank, world)) for i in own for rows in there[i]] for own in owned]
    received = [iter(parts) for parts in _exchange(outgoing, incoming, device, group)]
    found = {i: [next(received[r]) for _ in there[i]] for r in range(world) for i in owned[r]}
    return [found[i] for i in range(len(there))]


def _exchange(
    outgoing: Sequence[Sequence[Tensor]],
    incoming: Sequence[Sequence[tuple[torch.dtype, int]]],
    device: torch.device,
    group: Any,
) -> list[list[Tensor]]:
    """One all-to-all: the tensors ``outgoing[r]`` go to process r; what comes from it is cut into vectors of ``incoming[r]``."""
    empty = torch.empty(0, dtype=torch.uint8, device=device)
    # Raw bytes: dtypes differ, and not every backend knows every floating-point format.
    sent = [torch.cat([empty, *map(_aligned_bytes, tensors)]) for tensors in outgoing]
    sizes = [[_aligned(dtype.itemsize * numel) for dtype, numel in parts] for parts in incoming]
    totals = [sum(own) for own in sizes]
    buffer = torch.empty(sum(totals), dtype=torch.uint8, device=device)
    dist.all_to_all_single(buffer, torch.cat(sent), totals, [part.numel() for part in sent], group=group)
    return [
        [
            piece[: dtype.itemsize * numel].view(dtype)
            for piece, (dtype, numel) in zip(part.split(own), parts, strict=True)
        ]
        for part, own, parts in zip(buffer.split(totals), sizes, incoming, strict=True)
    ]


def _aligned(count: int) -> int:
    """Bytes rounded up, so that what comes next can be viewed in any dtype."""
    return -(-count // 8) * 8


def _aligned_bytes(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1).view(torch.uint8)
    return torch.nn.functional.pad(flat, (0, _aligned(len(flat)) - len(flat)))


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
