"""How many bytes an optimizer keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def optimizer_state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of tensor storage that ``optimizer``'s state holds on this process; storage that is shared counts once.

    Works for every ``torch.optim.Optimizer``. Sharded state (DTensor) counts its local shard.

    Example:
        >>> import torch
        >>> from thalweg.optim import Lion, optimizer_state_bytes
        >>> weight = torch.nn.Parameter(torch.ones(10, 10))
        >>> optimizer = Lion([weight])
        >>> weight.sum().backward()
        >>> _ = optimizer.step()
        >>> optimizer_state_bytes(optimizer)
        400
    """
    storages = {}
    for tensor in _tensors(optimizer.state):
        local: Tensor = getattr(tensor, "_local_tensor", tensor)
        storage = local.untyped_storage()
        storages[storage.data_ptr(), str(local.device)] = storage.nbytes()
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
