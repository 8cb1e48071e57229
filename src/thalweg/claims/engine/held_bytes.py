"""What autograd holds for the backward pass, measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def held_bytes(part: nn.Module, *inputs: Tensor, model: nn.Module | None = None) -> int:
    """Bytes of all different storages that autograd saves in a forward pass, parameters left out.

    A tensor that several operations save counts once, as it does in memory; views count as what they are views of.

    Args:
        part: what is called.
        inputs: what it is called with.
        model: whose parameters don't count (default: the part's).

    Example:
        >>> held_bytes(nn.Linear(4, 3), torch.ones(5, 4))
        80
    """
    owned = {p.untyped_storage().data_ptr() for p in (model or part).parameters()}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in owned:
            held[address] = tensor  # kept, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        part(*inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())
