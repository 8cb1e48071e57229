"""Sharded parameters (DTensor, FSDP2): local tensors in, sums added up over shards, each matrix gathered by one process only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from thalweg.optim.engine.matrices import Shape, StackFunction, State, View, map_stacks
from thalweg.optim.engine.owners import map_on_owners
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
        function: StackFunction,
        updates: list[Tensor],
        wholes: Sequence[tuple[int, ...]],
        shapes: Sequence[Shape],
        states: Sequence[State],
        view: View,
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """``function`` on whole matrices, each on one process, given and returning local shards.

        Matrices split by rows over one mesh dimension (FSDP2) go to their owners in one all-to-all, their state with them, and come
        back in another.
        Other layouts (tensor parallelism beside it) are gathered on every process.

        Args:
            function: works on stacks (batch, m, n).
            updates: local shards; the list is emptied.
            wholes: shapes of the whole parameters.
            shapes: their shapes as (batch, m, n).
            states: DTensors, split by their first dimension over the same processes; changed in place.
            view: how the parameters are matrices.

        Returns:
            Local shards of the results, and the scales of their rows, (rows,), or None.
        """
        dims = self.split_dims
        if len(dims) == 1 and self.placements[dims[0]].is_shard(0):
            return map_on_owners(function, updates, wholes, shapes, states, view, self.mesh.get_group(dims[0]))
        return self._map_everywhere(function, updates, wholes, shapes, states, view)

    def _map_everywhere(
        self,
        function: StackFunction,
        updates: list[Tensor],
        wholes: Sequence[tuple[int, ...]],
        shapes: Sequence[Shape],
        states: Sequence[State],
        view: View,
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        from torch.distributed.tensor import DTensor, distribute_tensor

        whole = []
        for u, shape in zip(updates, wholes, strict=True):
            size = torch.Size(shape)
            strides = torch.empty(size, device="meta").stride()
            whole.append(DTensor.from_local(u, self.mesh, self.placements, shape=size, stride=strides).full_tensor())
        updates.clear()
        gathered = [{name: t.full_tensor() for name, t in state.items()} for state in states]  # type: ignore[attr-defined]
        stacks = [{name: view.as_stack(t) for name, t in state.items()} for state in gathered]
        done, scales = map_stacks(function, whole, shapes, stacks)

        def shard(tensor: Tensor, placements: Any) -> Tensor:
            return distribute_tensor(tensor, self.mesh, placements, src_data_rank=None).to_local()

        for state, new in zip(states, gathered, strict=True):
            for name, t in state.items():
                local(t).copy_(shard(new[name], t.placements))  # type: ignore[attr-defined]
        scaled = [
            d if scale is None else d * view.spread(scale, d.shape) for d, scale in zip(done, scales, strict=True)
        ]
        return [shard(d, self.placements) for d in scaled], [None] * len(scaled)


def _among_all_rows(sums: Tensor, grid: Grid) -> Tensor:
    """Sums over local rows ``(k, rows)`` in their places among those of the whole tensor; plain sums ``(k,)`` as they are."""
    if sums.ndim == 1:
        return sums
    (count, *_), (first, *_), (rows, *_) = grid
    table = sums.new_zeros(len(sums), rows)
    table[:, first : first + count] = sums
    return table


_ORDINARY = frozenset({Tensor, torch.nn.Parameter})
"""Types that need no closer look, which would take a microsecond each at every step."""


def sharding_of(param: Tensor) -> Sharding | None:
    """The layout of a DTensor that is split over processes; ``None`` for everything that is whole on each process."""
    if type(param) in _ORDINARY:
        return None
    placements = getattr(param, "placements", None)
    if placements is None or all(p.is_replicate() for p in placements):
        return None
    return Sharding(param.device_mesh, tuple(placements))  # type: ignore[attr-defined]


def all_ordinary(tensors: Sequence[Tensor]) -> bool:
    """Whether none of them is of a kind of its own, as DTensors are."""
    return _ORDINARY.issuperset(map(type, tensors))


def local(tensor: Tensor) -> Tensor:
    """The part of ``tensor`` that lies on this process; plain tensors are all here."""
    if type(tensor) in _ORDINARY or not hasattr(tensor, "to_local"):
        return tensor
    return tensor.to_local()


def zeros_beside(param: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros on ``param``'s device; split along the first dimension over the same processes, if ``param`` is split."""
    sharding = sharding_of(param)
    if sharding is None:
        return torch.zeros(tuple(shape), dtype=dtype, device=param.device)
    from torch.distributed.tensor import Replicate, Shard, zeros

    placements = [Replicate() if p.is_replicate() else Shard(0) for p in sharding.placements]
    return zeros(*shape, dtype=dtype, device_mesh=sharding.mesh, placements=placements)
