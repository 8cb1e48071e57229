"""Linear separation: the data, the loop that all its solvers share, the margin, and how many steps theory allows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.linalg.infeasible import InfeasibleError
from thalweg.linalg.min_norm_point import min_norm_point

Weights = Callable[[int, Tensor], Tensor]
"""``weights(t, margins)``: how much of each row ``y_i a_i`` is added in update t = 0, 1, ..."""


@dataclass(frozen=True)
class History:
    """What was seen before each update, the end included: tensors ``(T + 1,)``.

    Args:
        loss: mean logistic loss. (This and the next two are empty with ``record=False``.)
        accuracy: share of the margins above ``tol_margin``.
        grad_norm: norm of the logistic loss's gradient.
        theta: the iterates ``(T + 1, d)``, where asked for.

    Example:
        >>> from thalweg.solve import logistic_gd
        >>> history = logistic_gd([[1.0, -1.0], [-1.0, -4.0]], [1, -1], step=100.0).history
        >>> history.accuracy.tolist()
        [0.0, 0.5, 1.0]
    """

    loss: Tensor
    accuracy: Tensor
    grad_norm: Tensor
    theta: Tensor | None = None


@dataclass(frozen=True)
class LinearResult:
    """What a solver found.

    Args:
        theta: weights ``(d,)``; with ``fit_intercept`` the intercept comes last.
        iterations: updates until all margins were positive; ``None``: never within ``max_iter``.
        separated: whether they were.
        history: ``None`` if nothing was to be recorded or kept.

    Example:
        >>> from thalweg.solve import perceptron
        >>> result = perceptron([[1.0, -1.0], [-1.0, -4.0]], [1, -1])
        >>> result.separated, result.iterations
        (True, 3)
    """

    theta: Tensor
    iterations: int | None
    separated: bool
    history: History | None = None


def signed_rows(X: Any, y: Any, fit_intercept: bool = False) -> Tensor:
    """The rows ``y_i a_i`` of a checked problem, shape ``(n, d)``; see :func:`logistic_gd` for what is refused."""
    X = torch.as_tensor(X) if hasattr(X, "dtype") else torch.as_tensor(X, dtype=torch.float64)
    y = torch.as_tensor(y, device=X.device)
    X = X if X.dtype in (torch.float32, torch.float64) else X.to(torch.float64)
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"X must be (n, d) and y (n,), not {tuple(X.shape)} and {tuple(y.shape)}")
    if not X.isfinite().all():
        raise ValueError("X holds NaN or infinity: remove or impute those examples")
    labels = y.unique().tolist()
    if labels not in ([-1, 1], [0, 1]):
        shown = ", ".join(map(str, labels[:5]))
        raise ValueError(f"y must hold both of two classes, written as -1 and 1 or as 0 and 1; found: {shown}")
    signs = torch.where(y > 0, 1.0, -1.0).to(X)
    if fit_intercept:
        X = torch.cat([X, X.new_ones(len(X), 1)], dim=1)
    return signs[:, None] * X


def iterate(
    rows: Tensor, weights: Weights, max_iter: int, tol_margin: float, record: bool, keep_iterates: bool
) -> LinearResult:
    """``theta <- theta + sum_i weights_i row_i`` from 0 until all margins exceed ``tol_margin``."""
    if max_iter < 1:
        raise ValueError(f"max_iter must be at least 1, not {max_iter}")
    theta = rows.new_zeros(rows.shape[1])
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    thetas = [theta]
    done = False
    for t in range(max_iter + 1):
        margins = rows @ theta
        right = margins > tol_margin
        if record:
            gradient = torch.sigmoid(-margins) @ rows / len(rows)
            seen.append((F.softplus(-margins).mean(), right.to(rows).mean(), gradient.norm()))
        done = bool(right.all())
        if done or t == max_iter:
            break
        theta = theta + weights(t, margins) @ rows
        if keep_iterates:
            thetas.append(theta)
    if not done:
        warnings.warn(
            f"not separated in {max_iter} iterations: raise max_iter, or the classes overlap (margin(X, y) tells)",
            stacklevel=3,
        )
    history = None
    if record or keep_iterates:
        loss, accuracy, norm = map(torch.stack, zip(*seen, strict=True)) if record else [rows.new_empty(0)] * 3
        history = History(loss, accuracy, norm, torch.stack(thetas) if keep_iterates else None)
    return LinearResult(theta, t if done else None, done, history)


def margin(X: Any, y: Any, *, fit_intercept: bool = False) -> tuple[float, Tensor]:
    r"""The largest margin of a linear separator, and the separator.

    .. math:: \mu = \max_{\|\theta\|=1} \min_i y_i \langle a_i, \theta\rangle

    It is the distance of the origin from the convex hull of the :math:`y_i a_i` (hard-margin support vector machine).

    Args:
        X, y, fit_intercept: as for :func:`logistic_gd`.

    Returns:
        :math:`\mu` in units of X, and the unit vector :math:`\theta`, float64 of shape ``(d,)``.

    Raises:
        InfeasibleError: the classes can't be separated.
        ValueError: as for :func:`logistic_gd`.

    Example:
        >>> mu, theta = margin([[3.0, 4.0], [-3.0, -4.0]], [1, -1])
        >>> round(mu, 6), theta
        (5.0, tensor([0.6000, 0.8000], dtype=torch.float64))
    """
    rows = signed_rows(X, y, fit_intercept).to(torch.float64)
    radius = rows.norm(dim=1).max()
    point = min_norm_point(rows / radius).point
    size = point.norm()
    mu = (rows @ point / size).min() if size > 0 else -radius
    if mu <= 1e-9 * radius:
        raise InfeasibleError("no linear separator: the convex hulls of the two classes meet")
    return mu.item(), point / size


Kind = Literal["perceptron", "batch_perceptron", "normalized_batch_perceptron", "normalized_logistic_gd"]


def iteration_bound(kind: Kind, *, n: int, R: float, mu: float, step: float | None = None) -> float:
    r"""Updates after which a solver has separated the data for certain (arXiv:2412.08424, the perceptron's since 1962).

    ============================= =========================================================
    ``kind``                      bound
    ============================= =========================================================
    "perceptron"                  :math:`R^2/\mu^2`
    "normalized_batch_perceptron" :math:`R^2/\mu^2`
    "batch_perceptron"            :math:`n R^2/\mu^2`
    "normalized_logistic_gd"      :math:`R^2/\mu^2 + 2\log(2n-1) / (\gamma\mu^2)`
    ============================= =========================================================

    Args:
        kind: the solver.
        n: number of examples.
        R: largest norm of an example.
        mu: margin, see :func:`margin`.
        step: :math:`\gamma`, for "normalized_logistic_gd" only.

    Raises:
        ValueError: an unknown kind, or a number that isn't positive.

    Example:
        >>> iteration_bound("batch_perceptron", n=10, R=2.0, mu=1.0)
        40.0
    """
    if min(n, R, mu) <= 0:
        raise ValueError(f"n, R and mu must be positive, not {n}, {R} and {mu}")
    if kind in ("perceptron", "normalized_batch_perceptron"):
        return (R / mu) ** 2
    if kind == "batch_perceptron":
        return n * (R / mu) ** 2
    if kind != "normalized_logistic_gd":
        raise ValueError(f"unknown kind {kind!r} (choose from {', '.join(Kind.__args__)})")  # type: ignore[attr-defined]
    if step is None or step <= 0:
        raise ValueError(f"step must be positive, not {step}")
    return (R / mu) ** 2 + 2 * math.log(2 * n - 1) / (step * mu**2)
