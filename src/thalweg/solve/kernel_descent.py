"""Gradient descent on a kernel's predictions without its steps, and when noisy targets ask it to stop (arXiv:2401.15604)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.solve.spectral_filter import learnt_share


def relu_ntk(Z1: Tensor, Z2: Tensor) -> Tensor:
    r"""Kernel of a wide two-layer ReLU network whose first layer alone is trained.

    For :math:`f(z) = m^{-1/2} \sum_r a_r \max(0, w_r \cdot z)` with Gaussian rows and signs :math:`a_r`, the product of the
    derivatives by all :math:`w_r`, for ever more hidden units m, is

    .. math:: K(z, z') = z \cdot z' \, \frac{\pi - \arccos u}{2 \pi}, \qquad u = \frac{z \cdot z'}{\|z\| \|z'\|} .

    Several outputs, each with signs of its own, have it each.

    Args:
        Z1: inputs, ``(n, d)``.
        Z2: inputs, ``(m, d)``.

    Returns:
        ``(n, m)``; it isn't divided by a number of examples.

    Example:
        >>> relu_ntk(torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        tensor([[2., 0., -0.]])
    """
    products = Z1 @ Z2.mT
    lengths = Z1.norm(dim=-1).unsqueeze(-1) * Z2.norm(dim=-1)
    cosine = (products / lengths.clamp(min=torch.finfo(products.dtype).tiny)).clamp(-1, 1)
    return products * (math.pi - cosine.arccos()) / (2 * math.pi)


def kernel_gd_path(
    K: Tensor,
    Y: Tensor,
    steps: float | Sequence[float],
    *,
    K_test: Tensor | None = None,
    lr: float | None = None,
    rcond: float = 1e-12,
) -> Tensor:
    r"""Predictions after any number of full-batch steps from zero, at the price of one eigendecomposition.

    A model that is linear in its weights, with kernel matrix K on N examples, takes steps of size :math:`\eta` on
    :math:`\frac{1}{2N} \sum_j \|f(z_j) - y_j\|^2`. After k of them it predicts at other inputs

    .. math:: f_k = K_{test} \, K^{-1} \big(I - (I - \eta K / N)^k\big) Y .

    Args:
        K: kernel of the examples, symmetric, ``(N, N)``; in float64, since its eigenvalues fall fast.
        Y: targets, ``(N, C)``.
        steps: k, 0 or more; ``math.inf`` is the limit, which interpolates. Several give a stack.
        K_test: kernel of other inputs with the examples, ``(M, N)``; ``None`` is K.
        lr: step size; ``None`` is 1 / (largest eigenvalue of K / N).
        rcond: eigenvalues up to this share of the largest are never learnt.

    Returns:
        ``(M, C)``, or ``(len(steps), M, C)``.

    Raises:
        ValueError: a kernel that isn't square or has no positive eigenvalue, a step size beyond 2 / (largest eigenvalue
            of K / N), at which descent diverges, or a negative number of steps.

    Example:
        >>> K = torch.diag(torch.tensor([2.0, 1.0]))
        >>> kernel_gd_path(K, torch.ones(2, 1), [0, 1, 2, float("inf")]).squeeze(2)
        tensor([[0.0000, 0.0000],
                [1.0000, 0.5000],
                [1.0000, 0.7500],
                [1.0000, 1.0000]])
    """
    times = list(steps) if isinstance(steps, Sequence) else [steps]
    if not times or min(times) < 0:
        raise ValueError("steps must be 0 or more")
    if K.ndim != 2 or K.shape[0] != K.shape[1] or not len(K):
        raise ValueError(f"K must be square, not {tuple(K.shape)}")
    values, V = torch.linalg.eigh(K)
    top = values[-1].item()
    if not top > 0:
        raise ValueError("K has no positive eigenvalue: it isn't a kernel's matrix")
    rate = 1.0 if lr is None else lr * top / len(K)
    if not 0 < rate <= 2:
        raise ValueError(f"lr times the largest eigenvalue of K / N must be above 0 and at most 2, not {rate:.3g}")
    kept = values > rcond * top
    shares = values.clamp(min=0) * (rate / top)
    learnt = torch.stack([learnt_share(shares, k) for k in times]) * kept / values.where(kept, 1.0)
    path = (K if K_test is None else K_test) @ V @ (learnt.unsqueeze(-1) * (V.mT @ Y))
    return path if isinstance(steps, Sequence) else path[0]


def early_stopping_time(eigenvalues: Tensor, sigma: float, *, lr: float | None = None) -> int:
    r"""The last step of gradient descent on a kernel before noise is learnt, by the kernel's complexity.

    With eigenvalues :math:`\lambda_i` of K / N and :math:`R(\epsilon) = \big(\frac1N \sum_i \min(\lambda_i, \epsilon^2)
    \big)^{1/2}`, the rule stops at the last k with

    .. math:: R\big((\eta k)^{-1/2}\big) \le \frac{1}{2 e \sigma \eta k} .

    :math:`\eta k R` grows with k, so there is one crossing.

    Args:
        eigenvalues: of K / N, all N of them; numerical noise below zero counts as zero.
        sigma: standard deviation of the targets' noise, per coordinate. A rule with another constant c in the place of
            2 e is this one at ``sigma * c / (2 * math.e)``.
        lr: step size; ``None`` is 1 / (largest eigenvalue).

    Returns:
        The number of steps; 0 where even one is too many.

    Raises:
        ValueError: ``sigma`` or ``lr`` isn't positive, or no eigenvalue is.

    Example:
        >>> early_stopping_time(torch.tensor([1.0]), 0.05)  # sqrt(k) <= 1 / (2 e sigma)
        13
    """
    spectrum = eigenvalues.detach().double().clamp(min=0)
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, not {sigma}: without noise there is no reason to stop")
    if not len(spectrum) or not spectrum.max() > 0:
        raise ValueError("no eigenvalue is positive")
    if lr is not None and not lr > 0:
        raise ValueError(f"lr must be positive, not {lr}")
    eta = 1 / spectrum.max().item() if lr is None else lr

    def allowed(k: int) -> bool:
        complexity = spectrum.clamp(max=1 / (eta * k)).mean().sqrt().item()
        return complexity * 2 * math.e * sigma * eta * k <= 1

    if not allowed(1):
        return 0
    last, beyond = 1, 2
    while allowed(beyond):
        last, beyond = beyond, 2 * beyond
    while beyond - last > 1:
        middle = (last + beyond) // 2
        last, beyond = (middle, beyond) if allowed(middle) else (last, middle)
    return last
