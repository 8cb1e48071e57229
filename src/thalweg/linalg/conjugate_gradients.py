"""Conjugate gradients for symmetric positive definite systems that are known by their products only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Solved(NamedTuple):
    """What conjugate gradients ended with.

    Args:
        x: the last iterate, ``(d,)``; with a positive definite operator each is nearer to the solution than the one before.
        residual: the norm of ``b - A x``, as the recurrence carries it.
        iterations: products with the operator.
        status: "converged", "max_iter", or "not_positive" where a direction p with ``p^T A p <= 0`` turned up.
    """

    x: Tensor
    residual: float
    iterations: int
    status: Literal["converged", "max_iter", "not_positive"]


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor], b: Tensor, *, rtol: float = 1e-10, max_iter: int | None = None
) -> Solved:
    r"""Solve :math:`A x = b` by the method of Hestenes and Stiefel, from zero.

    Stops when :math:`\|b - A x\| \le \texttt{rtol}\,\|b\|`. Singular systems are solved where b lies in the range of A.

    Args:
        operator: ``v -> A v`` for vectors ``(d,)``, A symmetric.
        b: right-hand side, ``(d,)``, real.
        rtol: relative residual to stop at.
        max_iter: products at most; ``None``: 10 d.

    Raises:
        ValueError: ``b`` is not a vector, or not finite.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
        >>> solved = conjugate_gradients(lambda v: A @ v, torch.ones(3, dtype=torch.float64))
        >>> solved.x, solved.iterations
        (tensor([1.0000, 0.5000, 0.2500], dtype=torch.float64), 3)
    """
    if b.ndim != 1 or not bool(b.isfinite().all()):
        raise ValueError(f"b must be a finite vector, not of shape {tuple(b.shape)}")
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    # torch.dot, as autocast would round the sums of @.
    square = float(torch.dot(residual, residual))
    goal = (rtol * square**0.5) ** 2
    for iteration in range(max_iter if max_iter is not None else 10 * len(b)):
        if square <= goal:
            return Solved(x, square**0.5, iteration, "converged")
        product = operator(direction)
        curvature = float(torch.dot(direction, product))
        if not curvature > 0:
            return Solved(x, square**0.5, iteration + 1, "not_positive")
        x = x + (square / curvature) * direction
        residual = residual - (square / curvature) * product
        old, square = square, float(torch.dot(residual, residual))
        direction = residual + (square / old) * direction
    status: Literal["converged", "max_iter"] = "converged" if square <= goal else "max_iter"
    return Solved(x, square**0.5, max_iter if max_iter is not None else 10 * len(b), status)
