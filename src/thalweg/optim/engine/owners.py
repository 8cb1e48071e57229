"""Matrices split by rows over processes, each worked on by one of them: its owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from thalweg.optim.engine.matrices import Shape, StackFunction, State, as_stack, map_stacks


class _Split(NamedTuple):
    """A tensor of which each process holds some rows: those here, and the shape of the whole."""

    here: Tensor
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
    batched: bool,
    group: Any,
) -> list[Tensor]:
    """See :meth:`thalweg.optim.engine.sharding.Sharding.map_matrices`; ``group`` are the processes."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    owned = _share_out(shapes, world)
    mine = owned[rank]
    items = [
        [_Split(update, whole), *(_Split(_local(t), tuple(t.shape)) for t in state.values())]
        for update, whole, state in zip(updates, wholes, states, strict=True)
    ]
    updates.clear()

    outgoing = [[split.here for i in owned[r] for split in items[i]] for r in range(world)]
    incoming = [
        [(split.here.dtype, split.numel_on(r, world)) for i in mine for split in items[i]] for r in range(world)
    ]
    received = _exchange(outgoing, incoming, items[0][0].here.device, group)
    splits = [split for i in mine for split in items[i]]
    whole = [
        torch.cat(parts).view(split.whole) for split, parts in zip(splits, zip(*received, strict=True), strict=True)
    ]
    each = len(items[0])
    kept = [dict(zip(states[0], whole[k + 1 : k + each], strict=True)) for k in range(0, len(whole), each)]
    stacks = [{name: as_stack(t, batched) for name, t in state.items()} for state in kept]
    done = map_stacks(function, whole[::each], [shapes[i] for i in mine], stacks)

    dtype = _dtype_of(done, function, items, shapes, list(states[0]), batched)
    back = [t for d, state in zip(done, kept, strict=True) for t in (d.to(dtype), *state.values())]
    parts = [
        t.reshape(-1).split([split.numel_on(r, world) for r in range(world)])
        for split, t in zip(splits, back, strict=True)
    ]
    outgoing = [[part[r] for part in parts] for r in range(world)]
    incoming = [
        [(split.here.dtype if k else dtype, split.here.numel()) for i in owned[r] for k, split in enumerate(items[i])]
        for r in range(world)
    ]
    returned = _exchange(outgoing, incoming, items[0][0].here.device, group)
    result: dict[int, Tensor] = {}
    for r in range(world):
        flat = iter(returned[r])
        for i in owned[r]:
            update, *state = items[i]
            result[i] = next(flat).view(update.here.shape)
            for split in state:
                split.here.copy_(next(flat).view(split.here.shape))
    return [result[i] for i in range(len(items))]


def _local(tensor: Any) -> Tensor:
    return tensor.to_local()


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


def _dtype_of(
    done: Sequence[Tensor],
    function: StackFunction,
    items: Sequence[Sequence[_Split]],
    shapes: Sequence[Shape],
    names: Sequence[str],
    batched: bool,
) -> torch.dtype:
    """The dtype of what ``function`` returns, known without having called it: a process may own no matrix."""
    for tensor in done:
        if tensor.numel():
            return tensor.dtype
    for (update, *state), (_, m, n) in zip(items, shapes, strict=True):
        if torch.Size(update.whole).numel():
            like = update.here
            one = {name: s.here.new_zeros(1, *s.whole[batched:]) for name, s in zip(names, state, strict=True)}
            return function(like.new_zeros(1, m, n), one).dtype
    return items[0][0].here.dtype
