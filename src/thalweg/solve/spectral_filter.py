"""Gradient descent on least squares without its steps: a filter on singular values (arXiv:2312.03951, 1710.03667)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def gd_path_solution(
    Z: Tensor,
    Y: Tensor,
    steps: float | Sequence[float],
    *,
    lr: float | None = None,
    start: Tensor | None = None,
    rcond: float = 1e-12,
) -> Tensor:
    r"""Weights after any number of full-batch steps on :math:`\frac12 \|Z W - Y\|_F^2`, at the price of one SVD.

    With :math:`Z = U S V^\top` and step size :math:`\eta`,

    .. math:: W_T = V \frac{I - (I - \eta S^2)^T}{S} U^\top Y + \big(I - V (I - (I - \eta S^2)^T) V^\top\big) W_0 .

    Args:
        Z: features, ``(n, p)``.
        Y: targets, ``(n, C)``.
        steps: T, 0 or more; ``math.inf`` is the limit, :math:`Z^+ Y` from zero. Several give a stack.
        lr: step size; ``None`` is 1 / (largest singular value)^2.
        start: weights before the first step, ``(p, C)``; ``None`` is zero.
        rcond: singular values up to this share of the largest are never learnt.

    Returns:
        ``(p, C)``, or ``(len(steps), p, C)``.

    Raises:
        ValueError: a step size at which descent diverges, a negative number of steps, or a matrix without entries.

    Example:
        >>> Z, Y = torch.diag(torch.tensor([1.0, 0.1])), torch.ones(2, 1)
        >>> gd_path_solution(Z, Y, 10).squeeze(1)
        tensor([1.0000, 0.9562])
    """
    if not Z.numel():
        raise ValueError(f"Z needs rows and columns, not {tuple(Z.shape)}")
    times = list(steps) if isinstance(steps, Sequence) else [steps]
    if not times or min(times) < 0:
        raise ValueError("steps must be 0 or more")
    U, s, Vh = torch.linalg.svd(Z, full_matrices=False)
    lr = 1 / s[0].item() ** 2 if lr is None else lr
    if not 0 < lr * s[0].item() ** 2 < 2:
        raise ValueError(
            f"lr times the largest squared singular value must lie between 0 and 2, not {lr * s[0].item() ** 2:.3g}"
        )
    learnt = torch.stack([learnt_share(lr * s.square(), T) for T in times]) * (s > rcond * s[0])
    target = U.mT @ Y / s.clamp(min=torch.finfo(s.dtype).tiny).unsqueeze(1)
    if start is None:
        start = Z.new_zeros(Z.shape[1], Y.shape[1])
    W = start + Vh.mT @ (learnt.unsqueeze(-1) * (target - Vh @ start))
    return W if isinstance(steps, Sequence) else W[0]


def ridge_path_solution(Z: Tensor, Y: Tensor, penalties: Sequence[float]) -> Tensor:
    r"""Ridge regression at several penalties by one SVD: :math:`V \frac{S}{S^2 + \lambda} U^\top Y`.

    Args:
        Z, Y: as in :func:`gd_path_solution`.
        penalties: lambda of :math:`\frac12 \|Z W - Y\|_F^2 + \frac\lambda2 \|W\|_F^2`, positive.

    Returns:
        ``(len(penalties), p, C)``.

    Example:
        >>> ridge_path_solution(torch.eye(1), torch.ones(1, 1), [1.0, 3.0]).flatten()
        tensor([0.5000, 0.2500])
    """
    U, s, Vh = torch.linalg.svd(Z, full_matrices=False)
    shrunk = s / (s.square() + torch.tensor(list(penalties), dtype=s.dtype, device=s.device).unsqueeze(1))
    return Vh.mT @ (shrunk.unsqueeze(-1) * (U.mT @ Y))


def condition_number(Z: Tensor, rcond: float = 1e-12) -> float:
    """Largest singular value over the smallest one above ``rcond`` times the largest.

    Random ReLU features can be dead or double: a plain condition number would be infinite there.

    Args:
        Z: ``(n, p)``.
        rcond: see above.

    Example:
        >>> condition_number(torch.diag(torch.tensor([4.0, 2.0, 0.0])))
        2.0
    """
    s = torch.linalg.svdvals(Z)
    return (s[0] / s[s > rcond * s[0]][-1]).item()


def learnt_share(rate: Tensor, steps: float) -> Tensor:
    """1 - (1 - rate)^steps, with all digits where the rate is tiny."""
    if math.isinf(steps):
        return torch.ones_like(rate)
    slow = -torch.expm1(steps * torch.log1p(-rate.clamp(max=0.5)))
    return torch.where(rate < 0.5, slow, 1 - (1 - rate) ** steps)
