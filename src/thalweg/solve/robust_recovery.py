"""Low-rank recovery from measurements of which many are grossly wrong, by sub-gradient steps (arXiv:2202.08788)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Recovery(NamedTuple):
    """What :func:`subgm` gives.

    Args:
        U: the factor after the last step, ``(..., d, k)``; the matrix is ``U U^T``.
        loss: mean absolute residual before every step and after the last one, ``(steps + 1, ...)``.
        error: ``|U U^T - target|_F`` likewise, if the target was given.

    Example:
        >>> from thalweg.solve import subgm
        >>> found = subgm(torch.ones(1, 1, 1), torch.ones(1), 1, steps=300)
        >>> found.U.shape, found.loss.shape
        (torch.Size([1, 1]), torch.Size([301]))
    """

    U: Tensor
    loss: Tensor
    error: Tensor | None


def l1_subgradient(A: Tensor, y: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean absolute residual of :math:`U U^\top`, and its sub-gradient in the matrix.

    .. math:: f(U) = \frac1m \sum_i |y_i - \langle A_i, U U^\top\rangle|, \qquad
        D = \frac1m \sum_i \mathrm{sign}(\langle A_i, U U^\top\rangle - y_i)\, \frac{A_i + A_i^\top}{2}

    with sign(0) = 0. The sub-gradient in U is :math:`2 D U`.

    Args:
        A: ``(m, d, d)``.
        y: ``(m,)``.
        U: ``(..., d, k)``.

    Returns:
        f, ``(...)``, and D, ``(..., d, d)``.

    Example:
        >>> l1_subgradient(torch.ones(1, 1, 1), torch.ones(1), torch.tensor([[0.5]]))
        (tensor(0.7500), tensor([[-1.]]))
    """
    rows = A.flatten(1)
    residual = (U @ U.mT).flatten(-2) @ rows.T - y
    D = (residual.sign() @ rows / len(rows)).unflatten(-1, A.shape[1:])
    return residual.abs().mean(-1), (D + D.mT) / 2


def sign_spectral_init(A: Tensor, y: Tensor, rank: int, alpha: float = 1.0) -> Tensor:
    r"""A start that the outliers can't spoil: :math:`\alpha\, Q \sqrt{\Lambda_+}` of the top eigenvectors of the signed mean.

    .. math:: C = \frac1m \sum_i \mathrm{sign}(y_i)\, \frac{A_i + A_i^\top}{2} = Q \Lambda Q^\top

    Args:
        A, y: as in :func:`l1_subgradient`.
        rank: columns to take, those of the largest eigenvalues; negative ones count as 0.
        alpha: scale.

    Returns:
        ``(d, rank)``.

    Example:
        >>> sign_spectral_init(torch.ones(1, 1, 1), torch.tensor([1e6]), 1, alpha=0.1)
        tensor([[0.1000]])
    """
    C = (y.sign() @ A.flatten(1) / len(A)).unflatten(-1, A.shape[1:])
    values, Q = torch.linalg.eigh((C + C.T) / 2)
    return alpha * (Q * values.clamp(min=0).sqrt())[:, -rank:].flip(1)


def subgm(
    A: Tensor,
    y: Tensor,
    rank: int,
    *,
    alpha: float = 1e-3,
    lr: float = 0.2,
    decay: float = 0.99,
    step: Literal["geometric", "polyak"] = "geometric",
    steps: int = 1000,
    start: Tensor | None = None,
    target: Tensor | None = None,
) -> Recovery:
    r"""Sub-gradient descent on the mean absolute residual of :math:`U U^\top`, of a rank that may be too large.

    .. math:: U \leftarrow U - 2 \eta_t D(U)\, U

    with :math:`\eta_t = \eta_0\, \mathrm{decay}^t` ("geometric", whatever the outliers), or :math:`\eta_0 f(U)` ("polyak",
    without noise). The start has to be small, so that surplus columns stay silent, and the steps must add up to
    enough for the signal to grow from it: :math:`2 \varphi \eta_0 / (1 - \mathrm{decay}) > \log(1 / \alpha)`, about, with
    :math:`\varphi` of :func:`sign_rip_scale`.

    Args:
        A, y: measurements and what they gave, ``(m, d, d)`` and ``(m,)``; largest singular value of the target about 1.
        rank: columns of U, 1 to d.
        alpha: scale of the start, :func:`sign_spectral_init`.
        lr: :math:`\eta_0`.
        decay: between 0 and 1.
        step: see above.
        steps: to take.
        start: another start, ``(..., d, rank)``; several run together.
        target: if known, to record the error.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> A = torch.randn(300, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> y = A[:, 0, 0].clone()
        >>> y[:60] = 1e3  # a fifth is wrong
        >>> found = subgm(A, y, 4, steps=800)
        >>> bool(((found.U @ found.U.T)[0, 0] - 1).abs() < 0.01)
        True
    """
    if A.dim() != 3 or A.shape[1] != A.shape[2] or y.shape != A.shape[:1]:
        raise ValueError(f"A must have shape (m, d, d) and y (m,), not {tuple(A.shape)} and {tuple(y.shape)}")
    if not 1 <= rank <= A.shape[1]:
        raise ValueError(f"rank must lie between 1 and {A.shape[1]}, not {rank}")
    if not (alpha > 0 and lr > 0 and 0 < decay < 1):
        raise ValueError(f"alpha and lr must be positive and decay between 0 and 1, not {alpha}, {lr} and {decay}")
    if step not in ("geometric", "polyak"):
        raise ValueError(f"step must be 'geometric' or 'polyak', not {step!r}")
    U = sign_spectral_init(A, y, rank, alpha) if start is None else start.clone()
    losses, errors = [], []
    for t in range(steps + 1):
        loss, D = l1_subgradient(A, y, U)
        losses.append(loss)
        if target is not None:
            errors.append((U @ U.mT - target).square().sum((-2, -1)).sqrt())
        if t < steps:
            size = lr * loss[..., None, None] if step == "polyak" else lr * decay**t
            U = U - 2 * size * D @ U
    return Recovery(U, torch.stack(losses), torch.stack(errors) if errors else None)


def sign_rip_scale(norm: float, p: float = 0.0, noise_std: float = math.inf, *, symmetric: bool = False) -> float:
    r"""Length :math:`\varphi` of the expected sub-gradient, :math:`E[D] = \varphi\, \Delta / \|\Delta\|_F`.

    For measurements with independent standard normal entries, outliers :math:`s \sim N(0, \sigma^2)` in a share p of them, and
    an error :math:`\Delta` of Frobenius norm F,

    .. math:: \varphi = \sqrt{\tfrac2\pi}\, \Big(1 - p + p\, E\, e^{-s^2 / (2F^2)}\Big)
        = \sqrt{\tfrac2\pi}\, \Big(1 - p + \frac{p}{\sqrt{1 + \sigma^2 / F^2}}\Big).

    Args:
        norm: F.
        p: share of outliers.
        noise_std: :math:`\sigma`; infinite for outliers without bound.
        symmetric: measurements :math:`(G + G^\top) / \sqrt2`, for which :math:`\langle A, \Delta\rangle` has variance 2 F^2.

    Example:
        >>> round(sign_rip_scale(1.0), 5), round(sign_rip_scale(1.0, p=0.4), 5)
        (0.79788, 0.47873)
    """
    variance = (2 if symmetric else 1) * norm**2
    return math.sqrt(2 / math.pi * variance) / norm * (1 - p + p / math.sqrt(1 + noise_std**2 / variance))
