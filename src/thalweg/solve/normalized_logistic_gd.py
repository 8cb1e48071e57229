"""Logistic regression by full-batch gradient descent at any step size, plain or normalized (arXiv:2412.08424)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.solve.separation import LinearResult, iterate, signed_rows


def logistic_gd(
    X: Any,
    y: Any,
    step: float = 1.0,
    *,
    normalized: bool = False,
    max_iter: int = 100_000,
    fit_intercept: bool = False,
    tol_margin: float = 0.0,
    record: bool = True,
    keep_iterates: bool = False,
) -> LinearResult:
    r"""Gradient descent from 0 on the mean logistic loss, until the data are separated (arXiv:2412.08424).

    .. math::
        \theta \leftarrow \theta + \frac\gamma n \sum_i w_i y_i a_i, \qquad
        w_i = \frac{1}{1 + e^{y_i \langle a_i, \theta\rangle}}

    and, ``normalized``, with :math:`\sum_i w_i` in the place of n: a weighted mean of the :math:`y_i a_i`, times the step.

    Separable data are separated at any step size. Huge steps :math:`\gamma` make the loss high and erratic on the way, and the
    path, divided by :math:`\gamma`, that of :func:`batch_perceptron`. Its number of updates may grow with n; normalized it is at most
    :math:`R^2/\mu^2 + 2\log(2n-1)/(\gamma\mu^2)` (:func:`iteration_bound`).

    Args:
        X: examples as rows ``(n, d)``; tensor or array. Computed in float64, or in float32 where X is a tensor or array of it.
        y: labels ``(n,)``: -1 and 1, or 0 and 1.
        step: :math:`\gamma` (default 1; normalized, 100 is a good one).
        normalized: see above (default False).
        max_iter: largest number of updates.
        fit_intercept: append a column of ones to X (default False).
        tol_margin: every margin must exceed this; at the default 0, a margin of exactly 0 counts as wrong.
        record: keep loss, accuracy and gradient norm of each iterate (default True).
        keep_iterates: keep all iterates as well (default False).

    Returns:
        :class:`LinearResult`; with a warning, and ``iterations=None``, if not separated within ``max_iter``.

    Raises:
        ValueError: other labels or one class only, NaN or infinity, shapes that don't fit, ``step <= 0``.

    Example:
        >>> result = logistic_gd([[1.0, -1.0], [-1.0, -4.0]], [1, -1], step=100.0)
        >>> result.iterations, result.theta / 100
        (2, tensor([1.0000, 0.2500], dtype=torch.float64))
    """
    if not 0 < step < math.inf:
        raise ValueError(f"step must be a positive number, not {step}")
    rows = signed_rows(X, y, fit_intercept)

    def weights(_: int, margins: Tensor) -> Tensor:
        if normalized:
            return step * _shares(margins)
        return (step / len(rows)) * torch.sigmoid(-margins)

    return iterate(rows, weights, max_iter, tol_margin, record, keep_iterates)


def logistic_scale(margins: Tensor) -> Tensor:
    r"""The factor :math:`\beta = (\frac1n \sum_i w_i)^{-1}`, :math:`w_i = \sigma(-m_i)`, that normalizes the logistic gradient.

    Args:
        margins: ``(n,)``, :math:`m_i = y_i f(x_i)`, of the full batch.

    Returns:
        0-d tensor, at least 1; infinite where all weights underflow (:func:`normalized_logistic_loss` stays finite there).

    Example:
        >>> logistic_scale(torch.zeros(3))
        tensor(2.)
    """
    return torch.exp(math.log(margins.numel()) - torch.logsumexp(F.logsigmoid(-margins), 0))


def normalized_logistic_loss(logits: Tensor, targets: Tensor) -> Tensor:
    r"""The mean logistic loss, with its gradient already normalized: plain SGD on it takes the normalized step.

    The value is :math:`\frac1n \sum_i \log(1 + e^{-m_i})`; the gradient is :math:`\beta` times its gradient,
    :math:`-\sum_i p_i \nabla m_i` with :math:`p = \mathrm{softmax}(\log\sigma(-m))`, which is finite however large the margins are.

    The theory is about full batches and linear heads, trained by ``torch.optim.SGD(head.parameters(), lr=100.0)``: the factor needs
    the weights of all examples, and for deep networks it is an analogy only.

    Args:
        logits: one number an example, any shape of n elements; positive means class 1.
        targets: as many labels: -1 and 1, or 0 and 1.

    Returns:
        0-d tensor. Second derivatives are not those of the loss.

    Raises:
        ValueError: the numbers of logits and targets differ.

    Example:
        >>> logits = torch.tensor([0.0, 200.0, 300.0], requires_grad=True)
        >>> normalized_logistic_loss(logits, torch.tensor([1, 1, 1])).backward()
        >>> logits.grad
        tensor([-1., -0., -0.])
    """
    if logits.numel() != targets.numel():
        raise ValueError(f"one logit for each target: {logits.numel()} logits, {targets.numel()} targets")
    margins = logits.flatten() * torch.where(targets.flatten() > 0, 1.0, -1.0).to(logits)
    loss = F.softplus(-margins).mean().detach()
    surrogate = -(_shares(margins.detach()) * margins).sum()
    return loss + (surrogate - surrogate.detach())


def _shares(margins: Tensor) -> Tensor:
    """Each example's share of the total weight. By logarithms: where all weights underflow, their ratio would be 0 / 0."""
    return torch.softmax(F.logsigmoid(-margins), 0)
