"""Starts of a chosen rank and norm: recurrent weights that learn richly or lazily (arXiv:2310.08513)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from thalweg.linalg import haar

Norm = Literal["frobenius", "spectral"]


def low_rank_matched_(
    weight: Tensor,
    rank: int,
    gain: float = 1.0,
    *,
    norm: Norm = "frobenius",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Fill a matrix with the best rank-r part of a Gaussian one, stretched to that one's norm, in place.

    .. math::
        W = G_r\,\|G\| / \|G_r\|, \qquad G_{ij} \sim N(0, g^2 / n),

    with n the columns of W and :math:`G_r` made of the r largest singular triples of G. At full rank W is G. With equal
    Frobenius norm the singular values grow as the rank falls, up to about :math:`\sqrt n / 2` times at rank one, so a
    recurrent network of low rank may be unstable; with equal spectral norm (:math:`G_r` itself) they don't, and the
    Frobenius norm falls instead.

    Args:
        weight: ``(m, n)``, or a stack ``(..., m, n)`` of matrices that are drawn separately.
        rank: r, from 1 to min(m, n).
        gain: g (default 1).
        norm: which norm of G is kept, ``"frobenius"`` (default) or ``"spectral"``.
        generator: source of randomness; the same one gives the same G for every rank.

    Returns:
        ``weight``.

    Raises:
        ValueError: the rank is out of range, the weight isn't a matrix, or an unknown norm.

    Example:
        >>> W = low_rank_matched_(torch.empty(20, 20), rank=3, gain=1.25)
        >>> torch.linalg.matrix_rank(W).item()
        3
    """
    if weight.dim() < 2:
        raise ValueError(f"a weight matrix is needed, not a tensor of shape {tuple(weight.shape)}")
    most = min(weight.shape[-2:])
    if not 1 <= rank <= most:
        raise ValueError(f"rank must lie between 1 and {most}, not {rank}")
    if norm not in ("frobenius", "spectral"):
        raise ValueError(f"norm must be 'frobenius' or 'spectral', not {norm!r}")
    dtype = torch.promote_types(weight.dtype, torch.float32)
    where = generator.device if generator is not None else weight.device
    G = torch.randn(weight.shape, generator=generator, dtype=dtype, device=where) * (gain / weight.shape[-1] ** 0.5)
    if rank < most:
        U, s, Vh = torch.linalg.svd(G, full_matrices=False)
        part = U[..., :rank] * s[..., None, :rank] @ Vh[..., :rank, :]
        if norm == "frobenius":
            part *= (s.norm(dim=-1) / s[..., :rank].norm(dim=-1))[..., None, None]
        G = part
    with torch.no_grad():
        return weight.copy_(G)


def aligned_low_rank_(
    weight: Tensor, directions: Tensor, norm: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Fill a matrix so that it reads nothing of its input but given directions, in place.

    :math:`W = c\,Q D^\top`, Q of random orthonormal columns, c such that :math:`\|W\|_F` is ``norm``. A network whose first
    weights already read the directions that its task needs can learn lazily in spite of their low rank.

    Args:
        weight: ``(m, n)``.
        directions: columns of D, ``(n, r)`` with r at most m, or one direction ``(n,)``.
        norm: Frobenius norm of the result (default 1).
        generator: source of randomness of Q.

    Returns:
        ``weight``.

    Raises:
        ValueError: sizes don't fit, or all directions are zero.

    Example:
        >>> W = aligned_low_rank_(torch.empty(5, 3), torch.tensor([0.0, 1.0, 0.0]), norm=2.0)
        >>> (W.T @ W).round(decimals=4)
        tensor([[0., 0., 0.],
                [0., 4., 0.],
                [0., 0., 0.]])
    """
    D = directions.unsqueeze(1) if directions.dim() == 1 else directions
    if weight.dim() != 2 or D.dim() != 2 or len(D) != weight.shape[1] or not 1 <= D.shape[1] <= weight.shape[0]:
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} can't be aligned with directions of shape {tuple(directions.shape)}"
        )
    if not bool(D.any()):
        raise ValueError("all directions are zero")
    dtype = torch.promote_types(weight.dtype, torch.float32)
    Q = haar(weight.shape[0], D.shape[1], generator=generator, dtype=dtype, device=weight.device)
    W = Q @ D.to(Q).mT
    with torch.no_grad():
        return weight.copy_(norm * W / torch.linalg.matrix_norm(W))
