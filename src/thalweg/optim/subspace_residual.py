"""What becomes of the part of a gradient outside the subspace: Fira's scaling and its growth limiter (arXiv:2410.01623).

Neither needs that part itself, which is as large as the matrix and costs a product: its norm follows from that of the gradient, and
its multiple from those of the gradient and of the projected gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CANCELLED = 1e-3
"""Share of a squared norm below which a difference of squares is worked out from the residual itself: float32 has lost three digits
by then."""


def stretch(low: Tensor, direction: Tensor, per_row: bool) -> Tensor:
    r"""How much the rule stretched the projected gradient, by which the residual is to be stretched too.

    .. math:: c_i = \frac{\|N_i\|}{\|R_i\|} \quad \text{for every row, or for the whole matrix}

    Args:
        low: the projected gradient R ``(batch, M, r)``.
        direction: what the rule made of it, N.
        per_row: a ratio for every row, else one for the matrix.

    Returns:
        Tensor ``(batch, M or 1, 1)``; 0 for rows that the subspace doesn't see.
    """
    dims = -1 if per_row else (-2, -1)
    after = torch.linalg.vector_norm(direction, dim=dims, keepdim=True)
    before = torch.linalg.vector_norm(low, dim=dims, keepdim=True)
    return after / before.clamp(min=1e-8)


def residual_norm(x: Tensor, low: Tensor, ratio: Tensor, share: float, residual: Callable[[], Tensor]) -> Tensor:
    r"""Norm of the stretched residual :math:`F_i = c_i (G_i - a R_i P^\top)`, without working F out where that is accurate enough.

    .. math:: \|F\|^2 = \sum_i c_i^2 \left(\|G_i\|^2 - (2a - a^2) \|R_i\|^2\right)

    since P has orthonormal columns. Where these cancel (:data:`CANCELLED`) it is the norm of ``ratio * residual()`` instead.

    Args:
        x: gradients G ``(batch, M, N)``.
        low: projected gradients R.
        ratio: c ``(batch, M or 1, 1)``.
        share: a; 1 for the residual proper.
        residual: works :math:`G - a R P^\top` out.

    Returns:
        Tensor ``(batch, 1)``.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[3.0, 4.0]]])
        >>> residual_norm(x, x[..., :1], torch.ones(1, 1, 1), 1.0, lambda: x - x)
        tensor([[4.]])
    """
    whole, inside = (_square_sums(t, per_row=ratio.shape[-2] > 1) for t in (x, low))
    squares = ratio.to(torch.float64).square()
    total = (squares * whole).sum((-2, -1))
    outside = (squares * (whole - (2 * share - share**2) * inside)).sum((-2, -1))
    if bool((outside < CANCELLED * total).any()):
        return torch.linalg.vector_norm(residual() * ratio, dim=(-2, -1))[:, None]
    return outside.sqrt()[:, None].to(x.dtype)


def _square_sums(x: Tensor, per_row: bool) -> Tensor:
    """In float64 ``(batch, M or 1, 1)``; of columns that lie apart in memory the norm is slow, but squares aren't."""
    if per_row and x.stride(-1) != 1:
        return x.square().sum(-1, keepdim=True).to(torch.float64)
    dims = -1 if per_row else (-2, -1)
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True).to(torch.float64).square()


def limit_growth(norm: Tensor, previous: Tensor, limit: float | None) -> tuple[Tensor, Tensor]:
    r"""By what to divide an update whose norm has grown by more than the factor ``limit`` since the last step.

    .. math:: F \leftarrow \frac{F}{L}, \qquad L = \frac{\max(\|F\| / n_{prev},\, \gamma)}{\gamma}

    so norms fall as they like and rise by :math:`\gamma` a step. A previous norm of 0 limits nothing: it would for ever.

    Args:
        norm: of the updates, ``(batch, 1)``.
        previous: norms of the last limited updates, likewise; 0 at the start.
        limit: gamma, at least 1; None: no limit.

    Returns:
        L, and the norms of the limited updates, both ``(batch, 1)``.

    Example:
        >>> import torch
        >>> norm = torch.zeros(1, 1)
        >>> for size in (1.0, 10.0, 10.0):
        ...     _, norm = limit_growth(torch.full((1, 1), size), norm, 1.01)
        ...     print(round(norm.item(), 4))
        1.0
        1.01
        1.0201
    """
    if limit is None:
        return torch.ones_like(norm), norm
    growth = torch.where(previous > 0, norm / previous.clamp(min=1e-8), 0)
    excess = growth.clamp(min=limit) / limit
    return excess, norm / excess
