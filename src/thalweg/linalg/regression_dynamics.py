r"""Gradient flow on a noisy linear teacher, on average over many weights and samples (arXiv:1710.03667).

Inputs of N coordinates of variance 1/N, columns of X; P = alpha N samples; a teacher of unit variance, noise of variance
1/SNR and starting weights of variance INR. The flow :math:`\dot w = X (y - X^\top w)`, that is, of half the squared error
**summed** over samples (time is learning rate times steps), learns every eigenvector of :math:`X X^\top` on its own, and the
eigenvalues follow the law of :func:`~thalweg.linalg.marchenko_pastur.marchenko_pastur`. All errors are mean squares per unit
of the teacher's variance, the noise of the tested sample included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.linalg.marchenko_pastur import marchenko_pastur


def generalization_curve(alpha: float, snr: float, t: Tensor, *, inr: float = 0.0) -> tuple[Tensor, Tensor]:
    r"""Test and training error at the times ``t``.

    .. math::
        E_g(t) = \int \rho(\lambda) \Big[(1 + \mathrm{INR}) e^{-2 \lambda t} + \frac{(1 - e^{-\lambda t})^2}{\lambda\,\mathrm{SNR}}
        \Big] d\lambda + \frac1{\mathrm{SNR}}

        E_t(t) = \frac1\alpha \int_{\lambda > 0} \rho(\lambda) \Big[\lambda (1 + \mathrm{INR}) + \frac1{\mathrm{SNR}}\Big]
        e^{-2 \lambda t} d\lambda + \frac{(1 - 1/\alpha)_+}{\mathrm{SNR}}

    Args:
        alpha: samples over weights, positive.
        snr: variance of the teacher over that of the noise, positive; ``math.inf`` is no noise.
        t: times, at least 0, ``(n,)``.
        inr: variance of the starting weights over the teacher's, at least 0.

    Returns:
        Test and training errors, float64, ``(n,)`` each.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> test, train = generalization_curve(0.5, 5.0, torch.tensor([0.0, 1.0, 20.0]))
        >>> [round(error, 3) for error in test.tolist()]
        [1.2, 0.866, 0.891]
    """
    _check(alpha, snr, inr)
    t = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1)
    if t.numel() and not t.min() >= 0:
        raise ValueError("times must be at least 0")
    eigenvalues, weights, zero = marchenko_pastur(alpha)
    left = (-eigenvalues * t).exp()
    learnt = -torch.expm1(-eigenvalues * t)
    test = ((1 + inr) * left.square() + learnt.square() / (eigenvalues * snr)) @ weights + zero * (1 + inr) + 1 / snr
    train = ((eigenvalues * (1 + inr) + 1 / snr) * left.square()) @ weights / alpha + max(0.0, 1 - 1 / alpha) / snr
    return test, train


def late_error(alpha: float, snr: float, *, inr: float = 0.0) -> float:
    r"""Test error as time goes to infinity; infinite at alpha = 1 with noise.

    .. math::
        (1 - \alpha)(1 + \mathrm{INR}) + \frac{\alpha}{(1 - \alpha)\,\mathrm{SNR}} + \frac1{\mathrm{SNR}} \quad (\alpha < 1), \qquad
        \frac{1}{(\alpha - 1)\,\mathrm{SNR}} + \frac1{\mathrm{SNR}} \quad (\alpha > 1)

    Args:
        alpha, snr, inr: as in :func:`generalization_curve`.

    Example:
        >>> round(late_error(0.5, 5.0), 12), round(late_error(2.0, 5.0), 12), late_error(1.0, 5.0)
        (0.9, 0.4, inf)
    """
    _check(alpha, snr, inr)
    if alpha == 1:
        return 0.0 if math.isinf(snr) else math.inf
    frozen = max(0.0, 1 - alpha) * (1 + inr)
    return frozen + (min(1.0, alpha) / abs(1 - alpha) + 1) / snr


def optimal_stopping(alpha: float, snr: float, *, inr: float = 0.0) -> tuple[float, float]:
    """The time at which :func:`generalization_curve` is lowest, and the test error there.

    Args:
        alpha, snr, inr: as in :func:`generalization_curve`.

    Returns:
        ``(math.inf, late_error(...))`` without noise, where longer is always better.

    Example:
        >>> time, error = optimal_stopping(0.5, 5.0)
        >>> round(time, 2), round(error, 3)
        (2.71, 0.826)
    """
    _check(alpha, snr, inr)
    if math.isinf(snr):
        return math.inf, late_error(alpha, snr, inr=inr)
    low, high = -4.0, 2.0 + math.log10(1 + snr * (1 + inr))  # exponents of ten; the grid narrows around its best point
    for _ in range(6):
        grid = torch.linspace(low, high, 61, dtype=torch.float64)
        errors, _ = generalization_curve(alpha, snr, 10**grid, inr=inr)
        best = int(errors.argmin())
        low, high = grid[max(best - 1, 0)].item(), grid[min(best + 1, 60)].item()
    return 10 ** grid[best].item(), errors[best].item()


def optimal_ridge_error(alpha: float, snr: float) -> float:
    r"""Test error of ridge regression with the penalty :math:`\|w\|^2 / (2\,\mathrm{SNR})`, the best of all estimators here.

    .. math:: E = \int \rho(\lambda) \frac{1/\mathrm{SNR}}{\lambda + 1/\mathrm{SNR}} d\lambda + \frac1{\mathrm{SNR}}

    Args:
        alpha, snr: as in :func:`generalization_curve`.

    Example:
        >>> from thalweg.linalg.regression_dynamics import optimal_ridge_error, optimal_stopping
        >>> optimal_ridge_error(0.5, 5.0) < optimal_stopping(0.5, 5.0)[1]
        True
    """
    _check(alpha, snr, 0.0)
    eigenvalues, weights, zero = marchenko_pastur(alpha)
    return (weights / (1 + eigenvalues * snr)).sum().item() + zero + 1 / snr


def _check(alpha: float, snr: float, inr: float) -> None:
    if not (alpha > 0 and snr > 0 and inr >= 0):
        raise ValueError(f"alpha and snr must be positive and inr at least 0, not {alpha}, {snr} and {inr}")
