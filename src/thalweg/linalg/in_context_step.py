r"""The best single gradient step for linear regression from a few examples, in closed form (arXiv:2307.03576).

A problem has n examples :math:`y_i = w^\top x_i + \varepsilon_i` with :math:`x_i \sim N(0, \Sigma)`,
:math:`w \sim N(0, \Sigma_w)` and noise of variance :math:`\sigma^2`. One preconditioned step from zero on the mean of
:math:`\frac12 (w^\top x_i - y_i)^2` gives

.. math:: \hat w = \Gamma \, \frac1n \sum_i y_i x_i,

plain gradient descent with step size :math:`\eta` if :math:`\Gamma = \eta I`. Of all such steps, and of all functions
that one layer of linear self-attention can express, the one of least expected squared error at a new input has

.. math:: \Gamma^* = n \left( (n + 1) \Sigma + (\mathrm{tr}(\Sigma \Sigma_w) + \sigma^2) \Sigma_w^{-1} \right)^{-1}.

The paper steps on the *sum* over examples: its step size and preconditioner are these over n.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

WeightCov = Literal["identity", "inverse"] | Tensor


def optimal_gd_step(dim: int, n: int, noise_var: float = 0.0) -> float:
    """Best step size on the mean squared error / 2, inputs and weights standard normal: ``n / (n + dim + 1 + noise_var)``.

    The expected squared error against the noise-free target is then ``dim * (1 - step)``.

    Args:
        dim: length of the inputs.
        n: examples.
        noise_var: variance of the noise on the examples' targets.

    Raises:
        ValueError: ``dim`` or ``n`` is below 1 or the noise is negative.

    Example:
        >>> round(optimal_gd_step(5, 10, 0.5), 6)
        0.606061
    """
    _check(dim, n, noise_var)
    return n / (n + dim + 1 + noise_var)


def optimal_relu_step(dim: int, n: int, noise_var: float = 0.0) -> float:
    r"""Best step size where targets come from random ReLU networks: ``n / (n - 1 + 2 (dim + 2) + 4 noise_var)``.

    Targets are :math:`g(x) = \sum_{k \le K} a_k \max(0, w_k^\top x)` with :math:`w_k \sim N(0, I)`,
    :math:`a_k \sim N(0, 1/K)` and standard normal inputs; the number of units K doesn't matter. From
    :math:`E[g(x_q)\, x_q^\top h] = d/4` and
    :math:`E\|h\|^2 = \frac1n (d (d + 2) / 2 + \sigma^2 d + (n - 1) d / 4)` with :math:`h = \frac1n \sum_i y_i x_i`.
    The expected squared error against the noise-free target is ``dim / 2 - dim * step / 4``.

    Args, Raises:
        as in :func:`optimal_gd_step`.

    Example:
        >>> optimal_relu_step(5, 10, 0.5)
        0.4
    """
    _check(dim, n, noise_var)
    return n / (n - 1 + 2 * (dim + 2) + 4 * noise_var)


def optimal_lsa_preconditioner(
    cov: Tensor, n: int, noise_var: float = 0.0, weight_cov: WeightCov = "identity"
) -> Tensor:
    r"""The matrix :math:`\Gamma^*` above: what one layer of linear self-attention learns at best.

    For ``weight_cov="inverse"``, :math:`\Sigma_w = \Sigma^{-1}`, it is :math:`\Sigma^{-1}` times
    :func:`optimal_gd_step`.

    Args:
        cov: covariance of the inputs, symmetric positive definite, ``(dim, dim)``.
        n: examples.
        noise_var: variance of the noise on the examples' targets.
        weight_cov: covariance of the weights: "identity", "inverse" (of ``cov``) or a matrix like ``cov``.

    Returns:
        ``(dim, dim)``, float64, symmetric.

    Raises:
        ValueError: a covariance isn't symmetric positive definite, shapes differ, ``n`` is below 1 or the noise negative.

    Example:
        >>> optimal_lsa_preconditioner(torch.diag(torch.tensor([2.0, 0.5])), n=3, noise_var=0.5)
        tensor([[0.2727, 0.0000],
                [0.0000, 0.6000]], dtype=torch.float64)
    """
    cov, weights = _covariances(cov, weight_cov)
    _check(len(cov), n, noise_var)
    spread = (cov * weights.mT).sum() + noise_var
    gamma = n * torch.linalg.inv((n + 1) * cov + spread * torch.linalg.inv(weights))
    return (gamma + gamma.mT) / 2


def one_step_half_loss(
    gamma: Tensor | float, cov: Tensor, n: int, noise_var: float = 0.0, weight_cov: WeightCov = "identity"
) -> float:
    r"""Half the expected squared error of the step :math:`\Gamma`, against the noise-free target.

    :math:`\frac12 \mathrm{tr}\, \Sigma (\Gamma H \Gamma^\top - \Gamma C^\top - C \Gamma^\top + \Sigma_w)` with
    :math:`C = E[w h^\top] = \Sigma_w \Sigma` and :math:`H = E[h h^\top] = \frac1n ((n + 1) \Sigma \Sigma_w \Sigma +
    (\mathrm{tr}(\Sigma \Sigma_w) + \sigma^2) \Sigma)`. A noisy target adds half its noise's variance.

    Args:
        gamma: any preconditioner, ``(dim, dim)``, or a step size.
        cov, n, noise_var, weight_cov: as in :func:`optimal_lsa_preconditioner`.

    Example:
        >>> from thalweg.linalg.in_context_step import one_step_half_loss, optimal_gd_step
        >>> round(one_step_half_loss(optimal_gd_step(5, 10, 0.5), torch.eye(5), 10, 0.5), 6)
        0.984848
    """
    cov, weights = _covariances(cov, weight_cov)
    _check(len(cov), n, noise_var)
    if not isinstance(gamma, Tensor):
        gamma = gamma * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
    gamma = gamma.to(cov)
    if gamma.shape != cov.shape:
        raise ValueError(f"gamma must have the shape {tuple(cov.shape)} of cov, not {tuple(gamma.shape)}")
    cross = weights @ cov
    second = ((n + 1) * cov @ cross + (torch.trace(cross) + noise_var) * cov) / n
    both = gamma @ cross.mT
    return torch.trace(cov @ (gamma @ second @ gamma.mT - both - both.mT + weights)).item() / 2


def best_scalar_step(cov: Tensor, n: int, noise_var: float = 0.0, weight_cov: WeightCov = "identity") -> float:
    """The best plain gradient step where inputs aren't isotropic: the minimum of :func:`one_step_half_loss` over numbers.

    Args:
        cov, n, noise_var, weight_cov: as in :func:`optimal_lsa_preconditioner`.

    Example:
        >>> round(best_scalar_step(torch.eye(5), 10, 0.5), 6)
        0.606061
    """
    zero, one, two = (one_step_half_loss(step, cov, n, noise_var, weight_cov) for step in (0.0, 1.0, 2.0))
    curvature = two - 2 * one + zero  # the loss is a parabola in the step
    return (zero - one) / curvature + 0.5


def preconditioned_gd_predict(X: Tensor, y: Tensor, xq: Tensor, gamma: Tensor | float) -> Tensor:
    r"""Prediction of one step from zero: :math:`x_q^\top \Gamma \frac1n \sum_i y_i x_i`.

    Args:
        X: examples, ``(..., n, dim)``.
        y: their targets, ``(..., n)``.
        xq: queries, ``(..., dim)``.
        gamma: ``(dim, dim)`` or a step size.

    Returns:
        ``(...)``.

    Example:
        >>> preconditioned_gd_predict(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, 1.0]), torch.tensor([2.0]), 0.5)
        tensor(2.5000)
    """
    step = (X * y.unsqueeze(-1)).mean(-2)
    return (xq * (step @ gamma.mT if isinstance(gamma, Tensor) else gamma * step)).sum(-1)


def _covariances(cov: Tensor, weight_cov: WeightCov) -> tuple[Tensor, Tensor]:
    cov = _positive_definite("cov", cov)
    match weight_cov:
        case "identity":
            return cov, torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
        case "inverse":
            return cov, torch.linalg.inv(cov)
        case Tensor():
            weights = _positive_definite("weight_cov", weight_cov).to(cov.device)
            if weights.shape != cov.shape:
                raise ValueError(
                    f"weight_cov must have the shape {tuple(cov.shape)} of cov, not {tuple(weights.shape)}"
                )
            return cov, weights
    raise ValueError(f"weight_cov must be 'identity', 'inverse' or a matrix, not {weight_cov!r}")


def _positive_definite(name: str, matrix: Tensor) -> Tensor:
    matrix = matrix.double()
    square = matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1]
    if not (square and torch.allclose(matrix, matrix.mT) and torch.linalg.eigvalsh(matrix)[0] > 0):
        raise ValueError(f"{name} must be a symmetric positive definite matrix")
    return matrix


def _check(dim: int, n: int, noise_var: float) -> None:
    if dim < 1 or n < 1:
        raise ValueError(f"dim and n must be at least 1, not {dim} and {n}")
    if noise_var < 0:
        raise ValueError(f"noise_var must be at least 0, not {noise_var}")
