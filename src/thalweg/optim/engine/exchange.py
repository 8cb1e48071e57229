"""Tensors of any dtypes sent between all processes of a group in one collective, which goes on while the caller works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Exchange:
    """One all-to-all, started at once: the tensors ``outgoing[r]`` go to process r.

    Args:
        outgoing: tensors for each process.
        incoming: dtypes and numbers of elements of what each process sends to this one.
        device: where all of them are.
        group: the processes.
    """

    def __init__(
        self,
        outgoing: Sequence[Sequence[Tensor]],
        incoming: Sequence[Sequence[tuple[torch.dtype, int]]],
        device: torch.device,
        group: Any,
    ) -> None:
        empty = torch.empty(0, dtype=torch.uint8, device=device)
        # Raw bytes: dtypes differ, and not every backend knows every floating-point format.
        sent = [torch.cat([empty, *map(_aligned_bytes, tensors)]) for tensors in outgoing]
        self._incoming = incoming
        self._sizes = [[_aligned(dtype.itemsize * numel) for dtype, numel in parts] for parts in incoming]
        self._totals = [sum(own) for own in self._sizes]
        self._buffer = torch.empty(sum(self._totals), dtype=torch.uint8, device=device)
        self._sent = torch.cat(sent)  # kept until it has left
        self._work = dist.all_to_all_single(
            self._buffer, self._sent, self._totals, [part.numel() for part in sent], group=group, async_op=True
        )

    def wait(self) -> list[list[Tensor]]:
        """What has come from each process, as vectors."""
        self._work.wait()
        del self._sent
        return [
            [
                piece[: dtype.itemsize * numel].view(dtype)
                for piece, (dtype, numel) in zip(part.split(own), parts, strict=True)
            ]
            for part, own, parts in zip(self._buffer.split(self._totals), self._sizes, self._incoming, strict=True)
        ]


def _aligned(count: int) -> int:
    """Bytes rounded up, so that what comes next can be viewed in any dtype."""
    return -(-count // 8) * 8


def _aligned_bytes(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1).view(torch.uint8)
    return torch.nn.functional.pad(flat, (0, _aligned(len(flat)) - len(flat)))
