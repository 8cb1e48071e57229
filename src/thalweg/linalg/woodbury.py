"""The inverse of a damped sum of outer products, times a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def woodbury_natural_gradient(gradient: Tensor, history: Tensor, damping: float) -> Tensor:
    r"""``(damping I + H^T H)^{-1} g``, where the rows of H are past gradients: a natural gradient by an empirical Fisher matrix.

    By Woodbury's identity only a system as large as the history is solved:

    .. math:: (\lambda I + H^\top H)^{-1} g = \frac{1}{\lambda} \left(g - H^\top (\lambda I + H H^\top)^{-1} H g\right)

    Note that the Fisher matrix is a sum and not a mean. Rows of zeros in the history change nothing.

    Args:
        gradient: ``(..., k)``.
        history: ``(..., s, k)``; s may be 0.
        damping: lambda, above 0.

    Returns:
        Tensor like ``gradient``; NaN where gradient or history hold NaN or infinities.

    Raises:
        ValueError: ``damping <= 0``, or sizes that don't match.

    Example:
        >>> import torch
        >>> g = torch.tensor([3.0, 4.0], dtype=torch.float64)
        >>> woodbury_natural_gradient(g, g[None], damping=1e-3)
        tensor([0.1200, 0.1600], dtype=torch.float64)
    """
    if not damping > 0:
        raise ValueError(f"damping must be a number > 0, not {damping!r}")
    if history.shape[-1] != gradient.shape[-1]:
        raise ValueError(
            f"gradients of {gradient.shape[-1]} numbers don't go with a history of {history.shape[-1]} numbers each"
        )
    # In float64: g and its part inside the history nearly cancel, and the small difference is divided by the small damping.
    past, g = history.to(torch.float64), gradient.to(torch.float64)
    good = past.isfinite().all((-2, -1)) & g.isfinite().all(-1)
    # Not by Cholesky: rounding makes eigenvalues of the Gram matrix negative that should be 0, by more than the damping is worth.
    values, vectors = torch.linalg.eigh(torch.where(good[..., None, None], past @ past.mT, 0))
    shares = vectors.mT @ (past @ g[..., None])
    solved = vectors @ (shares / (values.clamp(min=0) + damping)[..., None])
    natural = (g - (past.mT @ solved)[..., 0]) / damping
    return torch.where(good[..., None], natural, math.nan).to(gradient.dtype)


PIECE = 1 << 14
"""Numbers of each gradient that are widened to float64 at once."""


def woodbury_natural_member(history: Tensor, place: int, damping: float) -> Tensor:
    r"""``(damping I + H^T H)^{-1} h`` for a row h of H itself: one combination of the rows, and no small difference of large vectors.

    .. math:: (\lambda I + H^\top H)^{-1} H^\top e = H^\top (\lambda I + H H^\top)^{-1} e

    All is worked out in float64, since gradients in a row are nearly alike and their Gram matrix nearly singular; but piece by piece,
    in the cache, so that the history isn't copied.

    Args:
        history: H ``(batch, s, k)``; rows of zeros change nothing.
        place: which row h is.
        damping: lambda, above 0.

    Returns:
        Tensor ``(batch, k)``; NaN where the history holds NaN or infinities.

    Raises:
        ValueError: ``damping <= 0``.

    Example:
        >>> import torch
        >>> g = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
        >>> woodbury_natural_member(g[None], 0, damping=1e-3)
        tensor([[0.1200, 0.1600]], dtype=torch.float64)
    """
    if not damping > 0:
        raise ValueError(f"damping must be a number > 0, not {damping!r}")
    pieces = history.split(PIECE, -1)
    gram = history.new_zeros(len(history), history.shape[1], history.shape[1], dtype=torch.float64)
    for piece in pieces:
        wide = piece.to(torch.float64)
        gram += wide @ wide.mT
    good = gram.isfinite().all((-2, -1))
    # Not by Cholesky: rounding makes eigenvalues of the Gram matrix negative that should be 0, by more than the damping is worth.
    values, vectors = torch.linalg.eigh(torch.where(good[:, None, None], gram, 0))
    weights = vectors @ (vectors[:, place] / (values.clamp(min=0) + damping))[..., None]
    weights = torch.where(good[:, None, None], weights, torch.nan)
    return torch.cat([(weights.mT @ piece.to(torch.float64))[:, 0].to(history.dtype) for piece in pieces], -1)
