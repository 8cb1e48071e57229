"""Sharded parameters (DTensor, FSDP2): local tensors in, sums added up over shards, each matrix gathered by one process only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from thalweg.optim.engine.matrices import Shape, map_stacks
from thalweg.optim.engine.passes import Grid


@dataclass(frozen=True)
class Sharding:
    """How a parameter is laid out: a device mesh and one placement for each of its dimensions."""

    mesh: Any
    placements: tuple[Any, ...]

    @property
    def split_dims(self) -> list[int]:
        """Mesh dimensions over which the tensor is split."""
        return [i for i, p in enumerate(self.placements) if not p.is_replicate()]

    def add_up(self, sums: Sequence[tuple[Tensor, ...]], grids: Sequence[Grid]) -> list[tuple[Tensor, ...]]:
        """Local sums of many tensors added up over their shards, in one collective for each mesh dimension.

        Sums over rows come back for all rows of the whole tensor: every process adds its own to zeros.
        """
        tables = [_among_all_rows(torch.stack(own), grid) for own, grid in zip(sums, grids, strict=True) if own]
        if not tables:
            return list(sums)
        flat = torch.cat([table.reshape(-1) for table in tables])
        for dim in self.split_dims:
            dist.all_reduce(flat, group=self.mesh.get_group(dim))
        pieces = flat.split([table.numel() for table in tables])
        done = iter([piece.view_as(table).unbind() for piece, table in zip(pieces, tables, strict=True)])
        return [next(done) if own else own for own in sums]

    def any_true(self, flag: Tensor) -> Tensor:
        """Whether ``flag`` is set on any process that holds a shard."""
        flag = flag.to(torch.int32)
        for dim in range(self.mesh.ndim):
            dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.mesh.get_group(dim))
        return flag.bool()

    def grid(self, whole: Sequence[int]) -> Grid:
        """Where this process's part of a tensor of shape ``whole`` lies."""
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

        local, offsets = compute_local_shape_and_global_offset(torch.Size(whole), self.mesh, self.placements)
        return tuple(local), tuple(offsets), tuple(whole)

    def map_matrices(
        self,
        function: Callable[[Tensor], Tensor],
        updates: Sequence[Tensor],
        wholes: Sequence[Sequence[int]],
        shapes: Sequence[Shape],
    ) -> list[Tensor]:
        """``function`` on whole matrices, each on one process, given and returning local shards.

        Matrices split by rows over one mesh dimension (FSDP2) go to their owners in one all-to-all and come back in another.
        Other layouts (tensor parallelism beside it) are gathered on every process.

        Args:
            function: works on stacks (batch, m, n).
            updates: local shards.
            wholes: shapes of the whole parameters.
            shapes: their shapes as (batch, m, n).
        """
        dims = self.split_dims
        if len(dims) == 1 and self.placements[dims[0]].is_shard(0):
            return _map_on_owners(function, updates, wholes, shapes, self.mesh.get_group(dims[0]))
        return self._map_everywhere(function, updates, wholes, shapes)

    def _map_everywhere(
        self,
        function: Callable[[Tensor], Tensor],
        updates: Sequence[Tensor],
        wholes: Sequence[Sequence[int]],
        shapes: Sequence[Shape],
    ) -> list[Tensor]:
        from torch.distributed.tensor import DTensor, distribute_tensor

        whole = []
        for u, shape in zip(updates, wholes, strict=True):
            size = torch.Size(shape)
            strides = torch.empty(size, device="meta").stride()
            whole.append(DTensor.from_local(u, self.mesh, self.placements, shape=size, stride=strides).full_tensor())
        done = map_stacks(function, whole, shapes)
        return [distribute_tensor(d, self.mesh, self.placements, src_data_rank=None).to_local() for d in done]


def _among_all_rows(sums: Tensor, grid: Grid) -> Tensor:
    """Sums over local rows ``(k, rows)`` in their places among those of the whole tensor; plain sums ``(k,)`` as they are."""
    if sums.ndim == 1:
        return sums
    (count, *_), (first, *_), (rows, *_) = grid
    table = sums.new_zeros(len(sums), rows)
    table[:, first : first + count] = sums
    return table


_ORDINARY = (Tensor, torch.nn.Parameter)
"""Types that need no closer look, which would take a microsecond each at every step."""


def sharding_of(param: Tensor) -> Sharding | None:
    """The layout of a DTensor that is split over processes; ``None`` for everything that is whole on each process."""
    if type(param) in _ORDINARY:
        return None
    placements = getattr(param, "placements", None)
    if placements is None or all(p.is_replicate() for p in placements):
        return None
    return Sharding(param.device_mesh, tuple(placements))  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that lies on this process; plain tensors are all here."""
    if type(tensor) in _ORDINARY or not hasattr(tensor, "to_local"):
        return tensor
    return tensor.to_local()


def _map_on_owners(
    function: Callable[[Tensor], Tensor],
    updates: Sequence[Tensor],
    wholes: Sequence[Sequence[int]],
    shapes: Sequence[Shape],
    group: Any,
) -> list[Tensor]:
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    owned = _share_out(shapes, world)
    mine = owned[rank]
    rows = {i: _rows(wholes[i][0], world) for r in range(world) for i in owned[r]}
    per_row = {i: max(1, torch.Size(wholes[i]).numel() // max(1, wholes[i][0])) for i in rows}

    outgoing = [[updates[i].reshape(-1) for i in owned[r]] for r in range(world)]
    incoming = [[rows[i][r] * per_row[i] for i in mine] for r in range(world)]
    received = _exchange(outgoing, incoming, updates[0], group)
    whole = [torch.cat([received[r][k] for r in range(world)]).view(tuple(wholes[i])) for k, i in enumerate(mine)]
    done = map_stacks(function, whole, [shapes[i] for i in mine]) if mine else []

    parts = [d.reshape(-1).split([n * per_row[i] for n in rows[i]]) for i, d in zip(mine, done, strict=True)]
    outgoing = [[part[r] for part in parts] for r in range(world)]
    incoming = [[updates[i].numel() for i in owned[r]] for r in range(world)]
    returned = _exchange(outgoing, incoming, done[0] if done else _like_result(function, updates[0]), group)
    result: list[Tensor] = [torch.empty(0)] * len(updates)
    for r in range(world):
        for i, flat in zip(owned[r], returned[r], strict=True):
            result[i] = flat.view(updates[i].shape)
    return result


def _exchange(
    outgoing: Sequence[Sequence[Tensor]], incoming: Sequence[Sequence[int]], like: Tensor, group: Any
) -> list[list[Tensor]]:
    """One all-to-all of flat tensors: ``outgoing[r]`` goes to process r, what comes from it is cut into ``incoming[r]``."""
    empty = torch.empty(0, dtype=like.dtype, device=like.device)
    sent = [torch.cat([empty, *tensors]) for tensors in outgoing]
    sizes = [sum(lengths) for lengths in incoming]
    buffer = torch.empty(sum(sizes), dtype=like.dtype, device=like.device)
    # Raw bytes: not every backend knows every floating-point format.
    width = like.element_size()
    dist.all_to_all_single(
        buffer.view(torch.uint8),
        torch.cat(sent).view(torch.uint8),
        [size * width for size in sizes],
        [part.numel() * width for part in sent],
        group=group,
    )
    return [list(part.split(list(lengths))) for part, lengths in zip(buffer.split(sizes), incoming, strict=True)]


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


def _rows(total: int, world: int) -> list[int]:
    """Rows that each process holds of a tensor split by rows: equal chunks, the last ones shorter or empty."""
    chunk = -(-total // world)
    return [max(0, min(chunk, total - r * chunk)) for r in range(world)]


def _like_result(function: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """What ``function`` returns, dtype-wise, for a process that owns no matrix."""
    return function(torch.zeros(1, 1, 1, dtype=like.dtype, device=like.device))
