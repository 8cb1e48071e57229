"""Bases of small subspaces that hold much of a matrix's rows: by singular vectors, at random, or picked from a fixed basis."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.linalg.haar import haar


def svd_basis(stack: Tensor, rank: int) -> Tensor:
    """The leading right singular vectors of each matrix: no other subspace of that rank holds more of its rows.

    They are worked out as eigenvectors of the float64 Gram matrix, which is faster than a singular value decomposition of the
    whole and, for float32 input, as accurate. Their signs are arbitrary.

    Args:
        stack: matrices ``(..., m, n)`` without NaN or infinities; ``m >= n`` is the cheap side.
        rank: how many, at most n.

    Returns:
        Orthonormal columns ``(..., n, rank)`` in the stack's dtype, the most important first. A zero matrix gets some of them.

    Example:
        >>> import torch
        >>> svd_basis(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1).abs()
        tensor([[1.],
                [0.]])
    """
    # Scaled to norm 1, or the Gram matrix of large or tiny numbers would overflow or vanish.
    norm = stack.abs().amax((-2, -1), keepdim=True).to(torch.float64)
    scaled = stack.to(torch.float64) / torch.where(norm > 0, norm, 1)
    _, vectors = torch.linalg.eigh(scaled.mT @ scaled)
    return vectors.flip(-1)[..., :rank].to(stack.dtype)


def random_basis(n: int, rank: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Uniformly random orthonormal columns ``(n, rank)``, in the dtype and on the device of ``like``."""
    if rank == 0:
        return like.new_zeros(n, 0)
    return haar(n, rank, generator=generator, dtype=torch.float64).to(like)


def top_columns(stack: Tensor, rank: int, norm: int = 1) -> Tensor:
    """Numbers of the columns with the largest norms in each matrix, ascending.

    Args:
        stack: matrices ``(..., m, n)``.
        rank: how many columns, at most n. Of equal ones the first are taken.
        norm: 1 or 2; with 2 no other choice of columns keeps more of the matrix's Frobenius norm.

    Returns:
        int64 tensor ``(..., rank)``.

    Example:
        >>> import torch
        >>> top_columns(torch.tensor([[1.0, 3.0, 2.0]]), 2)
        tensor([1, 2])
    """
    scores = (stack.abs() if norm == 1 else stack.square()).sum(-2)  # the same order, and faster than norms of columns
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :rank].sort(-1).values


def random_columns(n: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` different numbers below ``n``, uniformly at random, ascending (int64)."""
    return torch.randperm(n, generator=generator)[:count].sort().values
