"""What becomes of the part of a gradient outside the subspace: Fira's scaling and its growth limiter (arXiv:2410.01623)."""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_residual(residual: Tensor, low: Tensor, direction: Tensor, per_row: bool) -> Tensor:
    r"""The residual, stretched as the rule stretched the projected gradient.

    .. math:: S_i \leftarrow \frac{\|N_i\|}{\|R_i\|} S_i \quad \text{for every row, or for the whole matrix}

    Args:
        residual: S ``(batch, M, N)``.
        low: the projected gradient R ``(batch, M, r)``.
        direction: what the rule made of it, N.
        per_row: a ratio for every row, else one for the matrix.

    Returns:
        Tensor like ``residual``; rows that the subspace doesn't see become 0.
    """
    dims = -1 if per_row else (-2, -1)
    after = torch.linalg.vector_norm(direction, dim=dims, keepdim=True)
    before = torch.linalg.vector_norm(low, dim=dims, keepdim=True)
    return residual * (after / before.clamp(min=1e-8))


def limit_growth(update: Tensor, previous: Tensor, limit: float | None) -> tuple[Tensor, Tensor]:
    r"""Shrink an update whose norm has grown by more than the factor ``limit`` since the last step.

    .. math:: F \leftarrow \frac{F}{L}, \qquad L = \frac{\max(\|F\| / n_{prev},\, \gamma)}{\gamma}

    so norms fall as they like and rise by :math:`\gamma` a step. A previous norm of 0 limits nothing: it would for ever.

    Args:
        update: F ``(batch, M, N)``.
        previous: norms of the last limited updates ``(batch, 1)``, 0 at the start.
        limit: gamma, at least 1; None: no limit.

    Returns:
        The limited update, and its norms ``(batch, 1)``.

    Example:
        >>> import torch
        >>> norm = torch.zeros(1, 1)
        >>> for size in (1.0, 10.0, 10.0):
        ...     _, norm = limit_growth(torch.full((1, 1, 1), size), norm, 1.01)
        ...     print(round(norm.item(), 4))
        1.0
        1.01
        1.0201
    """
    norm = torch.linalg.vector_norm(update, dim=(-2, -1))[:, None]
    if limit is None:
        return update, norm
    growth = torch.where(previous > 0, norm / previous.clamp(min=1e-8), 0)
    excess = growth.clamp(min=limit) / limit
    return update / excess[:, :, None], norm / excess
