"""Smooth problems with few unknowns, each with the curvatures that it comes with, exact and approximate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.tasks.remembered import remembered


@dataclass(frozen=True)
class Problem:
    """An objective, its gradient, and the curvatures that it comes with; the first is exact where there are two."""

    fun: Callable[[Tensor], Tensor]
    grad: Callable[[Tensor], Tensor]
    curvatures: dict[str, Callable[[Tensor], Tensor]]
    start: Tensor

    @property
    def rated(self) -> list[str]:
        """Approximate curvatures for which the paper proves a linear rate."""
        return list(self.curvatures)[1:]


def soft_maximum(rows: int, size: int, mu: float, generator: torch.Generator) -> Problem:
    """mu log sum exp of random affine functions, moved so that its minimum lies at zero; from all ones."""
    A = 2 * torch.rand(rows, size, generator=generator, dtype=torch.float64) - 1
    b = 2 * torch.rand(rows, generator=generator, dtype=torch.float64) - 1
    A = A - (-b / mu).softmax(0) @ A

    def shares(x: Tensor) -> Tensor:
        return ((A @ x - b) / mu).softmax(0)

    def weighted(x: Tensor) -> Tensor:
        return A.T @ (shares(x)[:, None] * A) / mu

    def exact(x: Tensor) -> Tensor:
        mean = shares(x) @ A
        return weighted(x) - mean[:, None] * mean / mu

    return Problem(
        lambda x: mu * ((A @ x - b) / mu).logsumexp(0),
        lambda x: shares(x) @ A,
        {"exact": exact, "Gauss-Newton": weighted},
        torch.ones(size, dtype=torch.float64),
    )


@remembered
def _tumours() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    return torch.as_tensor(data.data), 2 * torch.as_tensor(data.target).double() - 1


def logistic(generator: torch.Generator, ridge: float = 1e-2) -> Problem:
    """Breast cancer, 450 of its 569 rows, from zero. Without the ridge it would be separable, and have no minimum."""
    X, y = _tumours()
    rows = torch.randperm(len(X), generator=generator)[:450]
    X, y = (X[rows] - X[rows].mean(0)) / X[rows].std(0), y[rows]
    A = y[:, None] * torch.cat([X, X.new_ones(len(X), 1)], dim=1)
    n, eye = len(A), torch.eye(A.shape[1], dtype=A.dtype)

    def exact(x: Tensor) -> Tensor:
        s = torch.sigmoid(A @ x)
        return A.T @ ((s * (1 - s))[:, None] * A) / n + ridge * eye

    def fisher(x: Tensor) -> Tensor:
        return A.T @ (torch.sigmoid(-(A @ x)).square()[:, None] * A) / n + ridge * eye

    return Problem(
        lambda x: F.softplus(-(A @ x)).mean() + 0.5 * ridge * x @ x,
        lambda x: -(torch.sigmoid(-(A @ x)) @ A) / n + ridge * x,
        {"exact": exact, "Fisher": fisher},
        torch.zeros(A.shape[1], dtype=torch.float64),
    )


def rosenbrock(x: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals of a curved valley, and their Jacobian."""
    residuals = torch.cat([10 * (x[1:] - x[:-1].square()), 1 - x[:-1]])
    eye = torch.eye(len(x), dtype=x.dtype)
    return residuals, torch.cat([10 * eye[1:] - 20 * x[:-1, None] * eye[:-1], -eye[:-1]])


def chebyshev(x: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals that vanish at ones, where each number is the second Chebyshev polynomial of the one before; and their Jacobian."""
    residuals = torch.cat([(x[:1] - 1) / 2, x[1:] - 2 * x[:-1].square() + 1])
    eye = torch.eye(len(x), dtype=x.dtype)
    return residuals, torch.cat([eye[:1] / 2, eye[1:] - 4 * x[:-1, None] * eye[:-1]])


def equations(
    residuals: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, generator: torch.Generator
) -> Problem:
    """Half the squared residuals; ``start`` is moved by normal numbers of deviation 0.05."""

    def gradient(x: Tensor) -> Tensor:
        u, J = residuals(x)
        return J.T @ u

    def gauss_newton(x: Tensor) -> Tensor:
        J = residuals(x)[1]
        return J.T @ J

    return Problem(
        lambda x: 0.5 * residuals(x)[0].square().sum(),
        gradient,
        {"Gauss-Newton": gauss_newton},
        start.double() + 0.05 * torch.randn(len(start), generator=generator, dtype=torch.float64),
    )
