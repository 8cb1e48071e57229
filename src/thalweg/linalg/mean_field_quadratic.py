r"""A wide network with quadratic units is known by two moments of its weights (arXiv:2310.06110).

The network :math:`f(x) = \frac{\alpha}{N} \sum_i \varphi(w_i \cdot x)` with units :math:`\varphi(h) = h + \frac\varepsilon2 h^2`
depends on its weights through :math:`\bar w = \frac1N \sum_i w_i` and :math:`M = \frac1N \sum_i w_i w_i^\top` alone:

.. math:: f(x) = \alpha \big(\bar w \cdot x + \tfrac\varepsilon2\, x^\top M x\big),

and so do its tangent kernel, its steps of gradient descent and, for Gaussian inputs, its test loss. Where a network is centred (what
it gives at its start is subtracted), the *changes* of :math:`\bar w` and M take their places in f.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Scalar = float | Tensor
"""A number, or one for each network of a batch, ``(...)``."""


class Moments(NamedTuple):
    """The mean and the second moment of a network's weights.

    Args:
        mean: ``(..., D)``.
        second: ``(..., D, D)``.

    Example:
        >>> Moments.of(torch.tensor([[1.0, 0.0], [1.0, 2.0]])).second
        tensor([[1., 1.],
                [1., 2.]])
    """

    mean: Tensor
    second: Tensor

    @staticmethod
    def of(weights: Tensor) -> Moments:
        """Moments of ``weights``, ``(..., N, D)``."""
        return Moments(weights.mean(-2), weights.mT @ weights / weights.shape[-2])

    def minus(self, other: Moments) -> Moments:
        """The change since ``other``."""
        return Moments(self.mean - other.mean, self.second - other.second)


def predict(moments: Moments, x: Tensor, alpha: Scalar, eps: Scalar) -> Tensor:
    r"""Outputs :math:`\alpha (\bar w \cdot x + \frac\varepsilon2 x^\top M x)`.

    Args:
        moments: of the weights, or their changes.
        x: ``(P, D)``.
        alpha, eps: output scale and curvature of the units, numbers or ``(...)``.

    Returns:
        ``(..., P)``.
    """
    linear = (moments.mean.unsqueeze(-2) @ x.mT).squeeze(-2)
    return _of(alpha, 1, x) * (linear + _of(eps, 1, x) / 2 * ((x @ moments.second) * x).sum(-1))


def tangent_kernel(moments: Moments, x: Tensor, others: Tensor, alpha: Scalar, eps: Scalar, width: int) -> Tensor:
    r"""Gram matrix of the outputs' gradients by all weights, not normalized.

    .. math:: K(x, x') = \frac{\alpha^2}{N} \big(1 + \varepsilon\, \bar w \cdot (x + x') + \varepsilon^2 x^\top M x'\big)\, x \cdot x'

    Args:
        moments: of the weights themselves.
        x: ``(P, D)``.
        others: ``(Q, D)``.
        alpha, eps: as in :func:`predict`.
        width: N.

    Returns:
        ``(..., P, Q)``.
    """
    e = _of(eps, 2, x)
    slopes = (moments.mean.unsqueeze(-2) @ x.mT).mT + moments.mean.unsqueeze(-2) @ others.mT
    return (
        _of(alpha, 2, x).square()
        / width
        * (1 + e * slopes + e.square() * (x @ moments.second @ others.mT))
        * (x @ others.mT)
    )


class PopulationLoss(NamedTuple):
    """What :func:`population_loss` gives, ``(...)`` each.

    Args:
        total: the sum of the other three.
        offset: square of the mean error.
        linear: power of the linear part, which the target hasn't.
        misalignment: distance of the quadratic part from the target's.
    """

    total: Tensor
    offset: Tensor
    linear: Tensor
    misalignment: Tensor


def population_loss(moments: Moments, beta: Tensor, alpha: Scalar, eps: Scalar) -> PopulationLoss:
    r"""Expected squared error over :math:`x \sim N(0, I / D)` for the target :math:`y = \frac12 (\beta \cdot x)^2`.

    .. math::
        \Big(\frac{\alpha \varepsilon\,\mathrm{tr} M - |\beta|^2}{2 D}\Big)^2 + \frac{\alpha^2 |\bar w|^2}{D} +
        \frac{\|\alpha \varepsilon M - \beta \beta^\top\|_F^2}{2 D^2}

    Only a second moment along :math:`\beta \beta^\top`, without a mean, generalizes.

    Args:
        moments: of the weights; their changes for a centred network.
        beta: the target's direction, ``(D,)``.
        alpha, eps: as in :func:`predict`.

    Example:
        >>> from thalweg.linalg.mean_field_quadratic import Moments, population_loss
        >>> nothing = Moments(torch.zeros(2), torch.zeros(2, 2))
        >>> population_loss(nothing, torch.tensor([1.0, 1.0]), 1.0, 0.1).total  # E y^2 = 3 |beta|^4 / (4 D^2)
        tensor(0.7500)
    """
    D = len(beta)
    quadratic = _of(alpha, 2, beta) * _of(eps, 2, beta) * moments.second - torch.outer(beta, beta)
    offset = (quadratic.diagonal(dim1=-2, dim2=-1).sum(-1) / (2 * D)).square()
    linear = _of(alpha, 0, beta).square() * moments.mean.square().sum(-1) / D
    misalignment = quadratic.square().sum((-2, -1)) / (2 * D**2)
    return PopulationLoss(offset + linear + misalignment, offset, linear, misalignment)


def descent_step(
    moments: Moments, start: Moments, x: Tensor, y: Tensor, alpha: Scalar, eps: Scalar, speed: Scalar
) -> tuple[Moments, Tensor]:
    r"""One full-batch step of a centred network on the mean squared error, exactly, at a cost that doesn't depend on N.

    With the step size :math:`\eta = s N / \alpha^2` (functions then move at a speed that depends on neither N nor
    :math:`\alpha`), residuals r on P examples, :math:`c = 2 s / (\alpha P)`, :math:`g = \sum_p r_p x_p` and
    :math:`A = I - c\,\varepsilon \sum_p r_p x_p x_p^\top`, every weight becomes :math:`A w_i - c\,g`, hence

    .. math:: \bar w \leftarrow A \bar w - c\,g, \qquad
              M \leftarrow A M A - c\,(A \bar w\,g^\top + g\,\bar w^\top A) + c^2 g\,g^\top .

    Args:
        moments: of the weights now.
        start: of the weights at the start.
        x: ``(P, D)``.
        y: ``(P,)``.
        alpha, eps: as in :func:`predict`.
        speed: s, a number or ``(...)``.

    Returns:
        The moments after the step, and the loss before it, ``(...)``.
    """
    residual = predict(moments.minus(start), x, alpha, eps) - y
    c = 2 * _of(speed, 1, x) / (_of(alpha, 1, x) * len(x))
    g = c * (residual @ x)
    A = torch.eye(x.shape[1], dtype=x.dtype, device=x.device) - (c * _of(eps, 1, x)).unsqueeze(-1) * (
        (x.mT * residual.unsqueeze(-2)) @ x
    )
    turned = (A @ moments.mean.unsqueeze(-1)).squeeze(-1)
    cross = turned.unsqueeze(-1) * g.unsqueeze(-2)
    second = A @ moments.second @ A - cross - cross.mT + g.unsqueeze(-1) * g.unsqueeze(-2)
    return Moments(turned - g, second), residual.square().mean(-1)


def _of(value: Scalar, dims: int, like: Tensor) -> Tensor:
    """A number, or one a network, ready to multiply what has ``dims`` more dimensions."""
    tensor = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return tensor.reshape(tensor.shape + (1,) * dims) if tensor.dim() else tensor
