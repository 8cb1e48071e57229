"""Balanced Gaussian clusters with random centres: a class each (arXiv:1706.04454)."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_clusters(
    clusters: int,
    n: int,
    dim: int,
    *,
    separation: float = 1.0,
    noise: float = 0.5,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Points around ``clusters`` centres, as many around each to within one.

    Args:
        clusters: classes.
        n: points.
        dim: coordinates.
        separation: standard deviation of each coordinate of the centres.
        noise: standard deviation of each coordinate around its centre.
        generator: source of randomness. Centres, noise and their order don't depend on ``separation`` or ``noise``.

    Returns:
        Points, float64 of shape (n, dim), and classes, int64 of shape (n,).

    Raises:
        ValueError: fewer points than clusters, or none of either.

    Example:
        >>> X, y = gaussian_clusters(3, 9, 2)
        >>> X.shape, y.bincount()
        (torch.Size([9, 2]), tensor([3, 3, 3]))
    """
    if not 1 <= clusters <= n or dim < 1:
        raise ValueError(
            f"at least one cluster, a point for each and one coordinate are needed, not {clusters}, {n} and {dim}"
        )
    centres = torch.randn(clusters, dim, generator=generator, dtype=torch.float64)
    labels = torch.arange(n) % clusters
    return separation * centres[labels] + noise * torch.randn(n, dim, generator=generator, dtype=torch.float64), labels
