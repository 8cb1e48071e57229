"""The Marchenko-Pastur law as quadrature: averages over the spectrum of a large random covariance matrix."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class MarchenkoPastur(NamedTuple):
    """Nodes and weights of the law's continuous part, and its atom at zero.

    Args:
        eigenvalues: nodes, ascending, ``(nodes,)``.
        weights: their weights; they sum to min(1, alpha).
        zero: share of eigenvalues that are exactly zero, max(0, 1 - alpha).
    """

    eigenvalues: Tensor
    weights: Tensor
    zero: float


def marchenko_pastur(alpha: float, nodes: int = 4000) -> MarchenkoPastur:
    r"""The law of the eigenvalues of :math:`X X^\top`, X of shape (N, alpha N) with entries of variance 1/N, as N grows.

    .. math::
        \rho(\lambda) = \frac{\sqrt{(\lambda_+ - \lambda)(\lambda - \lambda_-)}}{2 \pi \lambda} + (1 - \alpha)_+ \delta(\lambda),
        \qquad \lambda_\pm = (\sqrt\alpha \pm 1)^2

    The substitution :math:`\lambda = 1 + \alpha - 2 \sqrt\alpha \cos\theta` with midpoints in :math:`\theta` takes away
    the square roots at both edges, and the pole that :math:`\rho` has at zero for alpha = 1.

    Args:
        alpha: columns over rows (samples over dimensions), positive.
        nodes: of the quadrature.

    Raises:
        ValueError: ``alpha`` or ``nodes`` isn't positive.

    Example:
        >>> eigenvalues, weights, zero = marchenko_pastur(0.5)
        >>> [round(value, 6) for value in (weights.sum().item(), (weights * eigenvalues).sum().item(), zero)]
        [0.5, 0.5, 0.5]
    """
    if not (alpha > 0 and math.isfinite(alpha) and nodes > 0):
        raise ValueError(f"alpha and nodes must be positive, not {alpha} and {nodes}")
    step = math.pi / nodes
    theta = (torch.arange(nodes, dtype=torch.float64) + 0.5) * step
    radius = 2 * math.sqrt(alpha)
    # (sqrt(alpha) - 1)^2 and 1 - cos(theta) apart: their sum loses no digits where both are small
    eigenvalues = (math.sqrt(alpha) - 1) ** 2 + 2 * radius * (theta / 2).sin().square()
    weights = (radius * theta.sin()).square() / (2 * math.pi * eigenvalues) * step
    return MarchenkoPastur(eigenvalues, weights, max(0.0, 1 - alpha))
