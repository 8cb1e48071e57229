"""The norm of all gradients together, for rules that look at the whole network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.optim.engine.sharding import Sharding, local, sharding_of


def gradient_norm(params: Iterable[Tensor]) -> float:
    """The Euclidean norm of the gradients of ``params`` as one long vector, shards added up; 0 if there are none.

    The number is needed on the host, so on an accelerator the step waits for the backward pass here.
    """
    return joint_norm((param, local(param.grad)) for param in params if param.grad is not None)


def joint_norm(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The Euclidean norm of local tensors as one long vector, each beside the parameter whose layout it has."""
    squares: dict[Sharding | None, Tensor] = {}
    for param, tensor in pairs:
        sharding = sharding_of(param)
        square = _square(tensor)
        squares[sharding] = squares[sharding] + square.to(squares[sharding].device) if sharding in squares else square
    total = 0.0
    for sharding, square in squares.items():
        if sharding is not None:
            ((square,),) = sharding.add_up([(square,)], [((), (), ())])
        total += float(square)
    return total**0.5


def _square(gradient: Tensor) -> Tensor:
    """The squared norm, in float64: there the squares of large float32 numbers don't overflow."""
    real = torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient
    return torch.linalg.vector_norm(real, dtype=torch.float64).square()
