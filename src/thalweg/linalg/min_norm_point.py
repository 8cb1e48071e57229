"""The point of a polytope that lies nearest to the origin."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MinNormPoint(NamedTuple):
    """``point``, shape ``(d,)``, and the ``weights`` ``(n,)`` of a convex combination that gives it."""

    point: Tensor
    weights: Tensor


def min_norm_point(points: Tensor, *, tol: float = 1e-12, max_iter: int = 10_000) -> MinNormPoint:
    r"""The shortest vector in the convex hull of ``points``, by Wolfe's active-set method.

    .. math:: \min_{w \ge 0,\ \sum w = 1} \|\textstyle\sum_i w_i p_i\|

    It holds a few affinely independent points, finds the shortest vector of their affine hull, and drops those whose weight would
    turn negative; then the point that lies furthest on the origin's side joins. The end is exact up to rounding: seen along the
    answer, no point lies nearer to the origin.

    Args:
        points: shape ``(n, d)``.
        tol: gap at which to stop, relative to the largest squared norm.
        max_iter: largest number of points that join.

    Raises:
        ValueError: no points, or numbers that aren't finite.
        RuntimeError: not done after ``max_iter``.

    Example:
        >>> points = torch.tensor([[2.0, 0.0], [0.0, 2.0], [3.0, 3.0]], dtype=torch.float64)
        >>> min_norm_point(points).point
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    if points.ndim != 2 or 0 in points.shape or not points.isfinite().all():
        raise ValueError(f"points must be a finite matrix with at least one row, not of shape {tuple(points.shape)}")
    sizes = points.square().sum(1)
    scale = sizes.max()
    active = [int(sizes.argmin())]
    weights = points.new_ones(1)
    for _ in range(max_iter):
        point = weights @ points[active]
        along = points @ point
        nearest = int(along.argmin())
        if along[nearest] >= point @ point - tol * scale or nearest in active:
            full = points.new_zeros(len(points))
            full[active] = weights
            return MinNormPoint(point, full)
        active.append(nearest)
        active, weights = _shorten(points, active, torch.cat([weights, weights.new_zeros(1)]), scale)
    raise RuntimeError(f"the point nearest to the origin was not found in {max_iter} steps: raise max_iter or tol")


def _shorten(points: Tensor, active: list[int], weights: Tensor, scale: Tensor) -> tuple[list[int], Tensor]:
    """From a convex combination to the shortest vector of a smaller affine hull whose weights are all positive."""
    while True:
        target = _affine_weights(points[active], scale)
        if (target > 0).all():
            return active, target
        falling = target <= 0
        ratios = weights / (weights - target).clamp(min=torch.finfo(weights.dtype).tiny)
        share = ratios.masked_fill(~falling, 1.0).min()
        weights = weights + share * (target - weights)
        kept = ~(falling & (ratios <= share))
        active = [i for i, keep in zip(active, kept.tolist(), strict=True) if keep]
        weights = weights[kept].clamp(min=0)
        weights = weights / weights.sum()


def _affine_weights(chosen: Tensor, scale: Tensor) -> Tensor:
    """Weights, of sum 1 and any sign, of the shortest vector in the affine hull."""
    gram = chosen @ chosen.T + scale  # adding a constant makes it regular, and only scales the answer
    ones = torch.ones(len(gram), 1, dtype=gram.dtype, device="cpu")
    # By singular values, on the CPU: copies of points make it singular, and the default's last bits change from call to call.
    solved = torch.linalg.lstsq(gram.cpu(), ones, driver="gelsd").solution[:, 0].to(chosen)
    return solved / solved.sum()
