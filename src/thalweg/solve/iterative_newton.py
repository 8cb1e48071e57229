"""Least squares by Newton's iteration for the inverse matrix, and by gradient descent (arXiv:2310.17086)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor


def newton_schulz_inverse(
    S: Tensor,
    steps: int,
    *,
    init: Literal["S", "identity"] = "S",
    alpha: float | Tensor | None = None,
    return_all: bool = False,
) -> Tensor:
    r"""Approximate inverse of symmetric positive semi-definite matrices by matrix products alone.

    .. math:: M_0 = \alpha S \ \text{or}\ \alpha I, \qquad M_{k+1} = M_k (2 I - S M_k)

    The residual squares itself, :math:`I - S M_{k+1} = (I - S M_k)^2`: steps grow like the logarithm of the condition number,
    those of gradient descent like the condition number itself. On an eigenvalue s of S, :math:`1 - s m_k` is
    :math:`(1 - \alpha s^2)^{2^k}` from :math:`\alpha S` and :math:`(1 - \alpha s)^{2^k}` from :math:`\alpha I`. A singular S
    leads to its pseudo-inverse from :math:`\alpha S`, but rounding outside its range doubles in every step: stop early. (Not the
    Newton-Schulz iteration of :func:`thalweg.linalg.polar.newton_schulz`, which orthogonalizes.)

    Args:
        S: ``(..., d, d)``; float64 is advised.
        steps: iterations, 0 or more.
        init: "S" (default): :math:`M_0 = \alpha S`; "identity": :math:`\alpha I`, which needs about half the steps.
        alpha: :math:`\alpha`, a number or ``(...)``; ``None``: :math:`1 / \|S S^\top\|_F` or :math:`1 / \mathrm{tr}\, S`. It must
            lie below :math:`2 / \|S\|_2^2` or :math:`2 / \|S\|_2`; at the limit itself the iteration doesn't converge.
        return_all: give all iterates, the start first.

    Returns:
        ``(..., d, d)``, or ``(steps + 1, ..., d, d)``.

    Raises:
        ValueError: S isn't square, steps are negative, init is unknown or alpha isn't between 0 and its limit.

    Example:
        >>> newton_schulz_inverse(torch.diag(torch.tensor([4.0, 1.0])), 3, alpha=1 / 16).diagonal()
        tensor([0.2500, 0.4033])
    """
    if S.dim() < 2 or S.shape[-1] != S.shape[-2]:
        raise ValueError(f"S must be square, (..., d, d), not {tuple(S.shape)}")
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, not {steps}")
    if init not in ("S", "identity"):
        raise ValueError(f"init must be 'S' or 'identity', not {init!r}")
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    start, power = (S, 2) if init == "S" else (eye.expand_as(S), 1)
    if alpha is None:
        size = torch.linalg.matrix_norm(S @ S.mT) if init == "S" else S.diagonal(dim1=-2, dim2=-1).sum(-1)
        scale = 1 / size.clamp(min=torch.finfo(S.dtype).tiny)
    else:
        scale = torch.as_tensor(alpha, dtype=S.dtype, device=S.device)
        limit = 2 / torch.linalg.matrix_norm(S, 2) ** power
        if not ((scale > 0) & (scale < limit * (1 - 1e-9))).all():
            raise ValueError(f"alpha must lie above 0 and below 2 / ||S||^{power} = {limit.min().item():.4g}")
    M = scale[..., None, None] * start
    seen = [M]
    for _ in range(steps):
        M = M @ (2 * eye - S @ M)
        if return_all:
            seen.append(M)
    return torch.stack(seen) if return_all else M


def iterative_newton_lstsq(
    X: Tensor, y: Tensor, steps: int, *, init: Literal["S", "identity"] = "S", return_all: bool = False
) -> Tensor:
    r"""Least-squares weights :math:`w_k = M_k X^\top y`, with :math:`M_k` of :func:`newton_schulz_inverse` for :math:`X^\top X`.

    Args:
        X: inputs, ``(..., n, d)``.
        y: targets, ``(..., n)``.
        steps, init, return_all: as there.

    Returns:
        ``(..., d)``, or ``(steps + 1, ..., d)``.

    Example:
        >>> X, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 3.0])
        >>> iterative_newton_lstsq(X, y, 8)
        tensor([1., 3.])
    """
    M = newton_schulz_inverse(X.mT @ X, steps, init=init, return_all=return_all)
    return (M @ (X.mT @ y.unsqueeze(-1))).squeeze(-1)


def gd_lstsq(X: Tensor, y: Tensor, steps: Tensor | list[int], lr: float | Tensor | None = None) -> Tensor:
    r"""Weights of gradient descent on :math:`\frac12 \|X w - y\|^2` from zero after any numbers of steps, without a loop.

    On an eigenvector of :math:`S = X^\top X` with eigenvalue s, :math:`w_k` is :math:`1 - (1 - \eta s)^k` times the solution's part.

    Args:
        X: inputs, ``(..., n, d)``.
        y: targets, ``(..., n)``.
        steps: numbers of steps, ``(m,)``.
        lr: :math:`\eta`, a number or ``(...)``; ``None``: the best one, :math:`2 / (s_{max} + s_{min})` over the eigenvalues that
            aren't zero. It must lie below :math:`2 / s_{max}`.

    Returns:
        ``(m, ..., d)``.

    Raises:
        ValueError: lr isn't between 0 and its limit.

    Example:
        >>> X, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([2.0, 3.0])
        >>> gd_lstsq(X, y, [1, 100])  # lr = 2 / (4 + 1)
        tensor([[1.6000, 1.2000],
                [1.0000, 3.0000]])
    """
    values, vectors = torch.linalg.eigh(X.mT @ X)
    largest = values[..., -1:]
    real = values > largest * X.shape[-1] * torch.finfo(X.dtype).eps * 10
    if lr is None:
        least = torch.where(real, values, torch.inf).amin(-1, keepdim=True)
        rate = torch.where(largest > 0, 2 / (largest + least), 0.0)
    else:
        rate = torch.as_tensor(lr, dtype=X.dtype, device=X.device).unsqueeze(-1)
        if not ((rate > 0) & (rate * largest < 2)).all():
            raise ValueError(f"lr must lie above 0 and below 2 / s_max = {(2 / largest).min().item():.4g}")
    counts = torch.as_tensor(steps, dtype=X.dtype, device=X.device).reshape(-1, *[1] * values.dim())
    right = (vectors.mT @ (X.mT @ y.unsqueeze(-1))).squeeze(-1)
    done = 1 - (1 - rate * values) ** counts
    parts = torch.where(real, done * right / torch.where(real, values, 1.0), 0.0)
    return (vectors @ parts.unsqueeze(-1)).squeeze(-1)


def online_predictions(weights_of: Callable[[Tensor, Tensor], Tensor], X: Tensor, y: Tensor) -> Tensor:
    """What a solver predicts for every example from those before it.

    Args:
        weights_of: gets inputs ``(B, t, d)`` and targets ``(B, t)`` and gives weights ``(..., B, d)``.
        X: ``(B, n, d)``.
        y: ``(B, n)``.

    Returns:
        ``(..., B, n)``; the first one is 0, for nothing is known then.

    Example:
        >>> from thalweg.solve import iterative_newton_lstsq
        >>> X, y = torch.ones(1, 3, 1), torch.tensor([[2.0, 2.0, 2.0]])
        >>> online_predictions(lambda X, y: iterative_newton_lstsq(X, y, 3), X, y)
        tensor([[0., 2., 2.]])
    """
    found = [(weights_of(X[:, :t], y[:, :t]) * X[:, t]).sum(-1) for t in range(1, X.shape[1])]
    first = torch.zeros_like(found[0]) if found else torch.zeros_like(y[:, 0])
    return torch.stack([first, *found], -1)


def similarity_of_errors(first: Tensor, second: Tensor, y: Tensor) -> Tensor:
    r"""Mean cosine between two predictors' residuals over the prompts, the first position apart.

    Args:
        first, second: predictions, ``(..., B, n)``; they broadcast.
        y: targets, ``(B, n)``.

    Returns:
        ``(...)``, in [-1, 1].

    Example:
        >>> y, good = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 1.0, 3.0]])
        >>> similarity_of_errors(good, 2 * good - y, y)  # twice the residuals
        tensor(1.)
    """
    one, other = (first - y)[..., 1:], (second - y)[..., 1:]
    return torch.nn.functional.cosine_similarity(one, other, dim=-1, eps=1e-30).mean(-1)
