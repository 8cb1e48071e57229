r"""What linear predictors of a factor model risk, in closed form (arXiv:2303.01566).

Inputs of r factors, :math:`x = B z + e`, :math:`z \sim N(0, I_r)`, :math:`e \sim N(0, I_d)`; targets
:math:`y = \beta^\top z + \nu`. The best linear rule is :math:`w^* = \Sigma^{-1} B \beta` with :math:`\Sigma = B B^\top + I`;
the excess risk of w is :math:`(w - w^*)^\top \Sigma\, (w - w^*)`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class FactorProblem(NamedTuple):
    """A factor model with a target.

    Args:
        B: loadings, ``(d, r)``.
        beta: weights of the factors in the target, ``(r,)``.
        label_noise: standard deviation of what is added to targets.

    Example:
        >>> problem = FactorProblem(torch.tensor([[2.0], [0.0]]), torch.ones(1), 0.5)
        >>> problem.covariance, problem.best, problem.residual
        (tensor([[5., 0.],
                [0., 1.]]), tensor([0.4000, 0.0000]), 0.45...)
    """

    B: Tensor
    beta: Tensor
    label_noise: float

    @property
    def covariance(self) -> Tensor:
        """Sigma of the inputs, ``(d, d)``."""
        return self.B @ self.B.mT + torch.eye(len(self.B), dtype=self.B.dtype)

    @property
    def best(self) -> Tensor:
        """w*, ``(d,)``."""
        return torch.linalg.solve(self.covariance, self.B @ self.beta)

    @property
    def residual(self) -> float:
        """Variance of y given x: of the noise and of the factors that x leaves unknown."""
        inner = self.B.mT @ self.B + torch.eye(len(self.beta), dtype=self.B.dtype)
        return self.label_noise**2 + (self.beta @ torch.linalg.solve(inner, self.beta)).item()


def excess_risk(w: Tensor, best: Tensor, covariance: Tensor) -> Tensor:
    r""":math:`(w - w^*)^\top \Sigma\, (w - w^*)`: exact, so that no test samples are needed.

    Args:
        w: ``(..., d)``.
        best: w*, ``(d,)``.
        covariance: ``(d, d)``.

    Returns:
        ``(...)``.

    Example:
        >>> excess_risk(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]), torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
        tensor(5.)
    """
    off = w - best
    return ((off @ covariance) * off).sum(-1)


def least_squares_risk(residual: float, features: int, n: int) -> float:
    r"""Mean excess risk of ordinary least squares on n Gaussian samples of a well-specified model.

    .. math:: s^2 \frac{d}{n - d - 1}

    Args:
        residual: s², variance of the target given the features.
        features: d, at least 1.
        n: samples, above d + 1.

    Raises:
        ValueError: too few samples: the mean doesn't exist.

    Example:
        >>> round(least_squares_risk(1.0, 20, 100), 4)
        0.2532
    """
    if n <= features + 1:
        raise ValueError(f"{features} features need more than {features + 1} samples, not {n}")
    return residual * features / (n - features - 1)


def subspace_risk(problem: FactorProblem, basis: Tensor) -> float:
    r"""Excess risk of the best linear rule on given features: what is left with labels without end.

    .. math:: w = A (A^\top \Sigma A)^{-1} A^\top \Sigma w^*

    Args:
        problem: the factor model.
        basis: A, ``(d, r)``; only its span matters, columns of zeros are allowed.

    Example:
        >>> from thalweg.linalg.factor_risk import FactorProblem, subspace_risk
        >>> problem = FactorProblem(torch.tensor([[2.0], [0.0]]), torch.ones(1), 0.5)
        >>> round(subspace_risk(problem, torch.tensor([[1.0], [1.0]])), 4)
        0.1333
    """
    covariance, best = problem.covariance, problem.best
    inner = torch.linalg.pinv(basis.mT @ covariance @ basis, hermitian=True)
    return excess_risk(basis @ (inner @ (basis.mT @ (covariance @ best))), best, covariance).item()


def pretraining_floor(problem: FactorProblem, m: int) -> float:
    r"""Mean of :func:`subspace_risk` for the factors fitted to m unlabelled samples, to first order in 1/m.

    The sample's eigenvectors tilt out of the span of B. With the eigenpairs :math:`(\lambda_k, u_k)` of :math:`\Sigma` in that span,
    the entries of :math:`S - \Sigma` between it and the other d - r directions have the variance :math:`\lambda_k / m`, so

    .. math:: E \approx \frac{d - r}{m} \sum_{k \le r} (u_k^\top w^*)^2 \frac{\lambda_k}{(\lambda_k - 1)^2}.

    Args:
        problem: the factor model; all its factors reach the inputs.
        m: unlabelled samples, many more than d / (weakest factor's strength).

    Example:
        >>> from thalweg.linalg.factor_risk import FactorProblem, pretraining_floor
        >>> problem = FactorProblem(torch.tensor([[2.0], [0.0]]), torch.ones(1), 0.5)
        >>> round(pretraining_floor(problem, 1000), 6)  # 1 / 1000 x 0.4^2 x 5 / 16
        5e-05
    """
    d, r = problem.B.shape
    values, vectors = torch.linalg.eigh(problem.covariance)
    values, vectors = values[-r:], vectors[:, -r:]
    return ((d - r) / m * ((vectors.mT @ problem.best).square() * values / (values - 1).square()).sum()).item()
