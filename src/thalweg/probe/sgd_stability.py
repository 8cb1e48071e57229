r"""Whether SGD can stay at a minimum of zero loss, by the second moment of its linearized steps (arXiv:2305.17490).

With :math:`g_i` the gradient of the output at example i and :math:`H = \frac1n \sum_i g_i g_i^\top`, the Hessian there of the
mean over examples of **half** the squared error, steps on batches of B examples move the second moment S of the distance by

.. math:: T(S) = S - \eta (H S + S H) + \eta^2 \Big[ (1 - c) H S H + \frac{c}{n} \sum_i g_i g_i^\top S\, g_i g_i^\top \Big]

with c = 1/B, or (n - B) / (B (n - 1)) without replacement. All is done in the span of the gradients, from the kernel matrix
:math:`K_{ij} = g_i \cdot g_j` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.linalg import lanczos


class Stability(NamedTuple):
    """What :func:`sgd_stability` gives; a minimum is stable in the mean square where ``radius`` is at most 1.

    Args:
        radius: spectral radius of T.
        trace: of H.
        top: largest eigenvalue of H.
        sgd_bound: largest step size that the necessary condition of :func:`sgd_bound` leaves.
        gd_bound: 2 / top, for full batches.

    Example:
        >>> from thalweg.probe import sgd_stability
        >>> sgd_stability(torch.eye(2), 0.5).trace
        1.0
    """

    radius: float
    trace: float
    top: float
    sgd_bound: float
    gd_bound: float


def sgd_stability(
    K: Tensor, lr: float, batch_size: int = 1, *, replacement: bool = True, steps: int = 200, tol: float = 1e-10
) -> Stability:
    """The spectral radius of T, by Lanczos, and bounds on the step size beside it.

    T is self-adjoint and maps positive semi-definite matrices to such, so its largest eigenvalue is its radius.

    Args:
        K: the kernel matrix, symmetric positive semi-definite, ``(n, n)``, not divided by n.
        lr: the step size, positive.
        batch_size: B.
        replacement: whether an example may be drawn twice for one batch.
        steps: Lanczos steps, at most.
        tol: of the radius, relative.

    Raises:
        ValueError: K isn't symmetric positive semi-definite or is zero, or ``lr`` or ``batch_size`` is out of range.

    Example:
        >>> K = torch.diag(torch.tensor([1.0, 4.0, 9.0]))  # orthogonal gradients of norms 1, 2, 3: stable up to 2/9
        >>> sgd_stability(K, 0.2).radius < 1 < sgd_stability(K, 0.23).radius
        True
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, not {lr}")
    G, h, c = _reduced(K, batch_size, replacement)

    def moment(flat: Tensor) -> Tensor:
        S = flat.view(len(h), len(h))
        return (S - lr * (h[:, None] + h) * S + lr**2 * _squared(G, h, c, S)).flatten()

    radius = _top(moment, torch.eye(len(h), dtype=h.dtype), steps, tol)
    top, trace = h.max().item(), h.sum().item()
    return Stability(radius, trace, top, sgd_bound(K, batch_size, replacement=replacement), 2 / top)


def max_stable_lr(
    K: Tensor, batch_size: int = 1, *, replacement: bool = True, steps: int = 300, tol: float = 1e-10
) -> float:
    r"""The largest step size at which SGD stays at the minimum, in the mean square.

    T has radius at most 1 as long as :math:`\eta L_2 \le L_1` for the two self-adjoint maps :math:`L_1(S) = H S + S H` and
    :math:`L_2`, the square bracket: so it is the inverse of the largest eigenvalue of :math:`L_1^{-1/2} L_2 L_1^{-1/2}`, without a
    search.

    Args:
        K, batch_size, replacement, steps, tol: as in :func:`sgd_stability`.

    Example:
        >>> round(max_stable_lr(torch.diag(torch.tensor([1.0, 4.0, 9.0]))), 4)
        0.2222
    """
    G, h, c = _reduced(K, batch_size, replacement)
    scale = (h[:, None] + h).rsqrt()

    def ratio(flat: Tensor) -> Tensor:
        return (scale * _squared(G, h, c, scale * flat.view(len(h), len(h)))).flatten()

    return 1 / _top(ratio, torch.eye(len(h), dtype=h.dtype), steps, tol)


def sgd_bound(K: Tensor, batch_size: int = 1, *, replacement: bool = True) -> float:
    r"""A step size above which no minimum of this kernel matrix is stable.

    .. math:: \eta \le \frac{2 \operatorname{tr} H}{(1 - c) \|H\|_F^2 + \frac{c}{n} \sum_i \|g_i\|^4}

    At B = 1 it is at most :math:`2 / \operatorname{tr} H`.

    Args:
        K, batch_size, replacement: as in :func:`sgd_stability`.

    Example:
        >>> sgd_bound(torch.diag(torch.tensor([3.0, 3.0])))
        0.6666666666666666
    """
    _, h, c = _reduced(K, batch_size, replacement)
    fourth = K.diagonal().double().square().mean()
    return (2 * h.sum() / ((1 - c) * h.square().sum() + c * fourth)).item()


def expected_loss_course(
    K: Tensor, lr: float, residuals: Tensor, steps: int, batch_size: int = 1, *, replacement: bool = True
) -> Tensor:
    r"""Mean over draws of batches of the loss :math:`\frac{1}{2n}\sum_i r_i^2` of linearized SGD, exactly.

    The residuals' second moment R obeys T in the space of examples,

    .. math:: R \leftarrow R - \tfrac\eta n (K R + R K) + \eta^2 \big[\tfrac{1 - c}{n^2} K R K
        + \tfrac cn K \operatorname{diag}(R_{ii}) K\big].

    Args:
        K, lr, batch_size, replacement: as in :func:`sgd_stability`.
        residuals: at the start, ``(n,)``.
        steps: to take.

    Returns:
        Before every step and after the last one, ``(steps + 1,)``, float64.

    Example:
        >>> expected_loss_course(torch.ones(1, 1), 0.5, torch.ones(1), 2)  # the residual is halved in each step
        tensor([0.5000, 0.1250, 0.0312], dtype=torch.float64)
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, not {lr}")
    _, _, c = _reduced(K, batch_size, replacement)
    n, K, r = len(K), K.double(), residuals.double()
    R, losses = torch.outer(r, r), []
    for _ in range(steps + 1):
        losses.append(R.trace() / (2 * n))
        spread = (1 - c) / n**2 * R + torch.diag(c / n * R.diagonal())
        R = R - lr / n * (K @ R + R @ K) + lr**2 * K @ spread @ K
    return torch.stack(losses)


def _reduced(K: Tensor, batch_size: int, replacement: bool) -> tuple[Tensor, Tensor, float]:
    """Gradients in the eigenbasis of H, ``(n, r)``, H's positive eigenvalues, ``(r,)``, and c."""
    n = len(K)
    if K.dim() != 2 or K.shape[1] != n or not torch.allclose(K, K.mT, rtol=1e-5, atol=1e-8 * float(K.abs().max())):
        raise ValueError("K must be a symmetric matrix")
    if batch_size < 1 or (not replacement and batch_size > n):
        raise ValueError(f"batch_size must be at least 1, and at most {n} without replacement, not {batch_size}")
    values, Q = torch.linalg.eigh(K.detach().double())
    if not values[-1] > 0 or values[0] < -1e-5 * values[-1]:
        raise ValueError("K must be positive semi-definite and not zero")
    kept = values > 1e-12 * values[-1]
    c = 1 / batch_size if replacement else (n - batch_size) / (batch_size * max(n - 1, 1))
    return Q[:, kept] * values[kept].sqrt(), values[kept] / n, c


def _squared(G: Tensor, h: Tensor, c: float, S: Tensor) -> Tensor:
    """The square bracket of T."""
    seen = ((G @ S) * G).sum(1)  # g_i^T S g_i
    return (1 - c) * h[:, None] * S * h + c / len(G) * (G.mT * seen) @ G


def _top(operator: Callable[[Tensor], Tensor], start: Tensor, steps: int, tol: float) -> float:
    ritz = lanczos(operator, start.flatten(), min(steps, start.numel()), top=1, tol=tol)
    value, error = ritz.values[0].item(), ritz.residuals[0].item()
    if error > 1e-4 * abs(value) and not math.isclose(error, 0, abs_tol=1e-12):
        raise RuntimeError(f"Lanczos knows the eigenvalue to {error:.1g} only: raise steps")
    return value
