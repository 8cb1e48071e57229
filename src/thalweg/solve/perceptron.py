"""The perceptron, one example at a time and in batches: what gradient descent on the logistic loss becomes for large steps."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.solve.separation import LinearResult, iterate, signed_rows


def batch_perceptron(
    X: Any,
    y: Any,
    *,
    normalized: bool = False,
    max_iter: int = 100_000,
    fit_intercept: bool = False,
    tol_margin: float = 0.0,
    record: bool = True,
    keep_iterates: bool = False,
) -> LinearResult:
    r"""Add the mean of all examples that are on the wrong side, until there are none (arXiv:2412.08424).

    .. math::
        \theta \leftarrow \theta + \frac1n \sum_{i \in S} y_i a_i, \qquad
        S = \{i : y_i \langle a_i, \theta\rangle \le 0\}

    from 0, where the first update is half of that, :math:`\frac{1}{2n}\sum_i y_i a_i`: so it is the limit of gradient descent with
    step :math:`\gamma` on the logistic loss, divided by :math:`\gamma`. It takes at most :math:`n R^2/\mu^2` updates, and may need a
    number that grows with n. ``normalized`` divides by \|S\| instead (whole first step): at most :math:`R^2/\mu^2`.

    Args:
        X, y, max_iter, fit_intercept, tol_margin, record, keep_iterates: as for :func:`logistic_gd`.
        normalized: divide by the number of wrong examples instead of all.

    Returns:
        :class:`LinearResult`; with a warning if not separated.

    Raises:
        ValueError: as for :func:`logistic_gd`.

    Example:
        >>> result = batch_perceptron([[1.0, 0.5], [2.0, -1.0], [-1.0, 1.0]], [1, 1, -1])
        >>> result.iterations, result.theta
        (1, tensor([ 0.6667, -0.2500], dtype=torch.float64))
    """
    rows = signed_rows(X, y, fit_intercept)

    def weights(t: int, margins: Tensor) -> Tensor:
        wrong = (margins <= tol_margin).to(rows)
        if normalized:
            return wrong / wrong.sum()
        return wrong / ((2 if t == 0 else 1) * len(rows))

    return iterate(rows, weights, max_iter, tol_margin, record, keep_iterates)


def perceptron(
    X: Any,
    y: Any,
    pick: Literal["first", "worst", "random"] = "first",
    *,
    generator: torch.Generator | None = None,
    max_iter: int = 100_000,
    fit_intercept: bool = False,
    tol_margin: float = 0.0,
    record: bool = True,
    keep_iterates: bool = False,
) -> LinearResult:
    r"""Rosenblatt's perceptron: add one example that is on the wrong side, until there are none.

    .. math:: \theta \leftarrow \theta + y_j a_j, \qquad y_j \langle a_j, \theta\rangle \le 0

    from 0; at most :math:`R^2/\mu^2` updates, whichever example is picked.

    Args:
        X, y, max_iter, fit_intercept, tol_margin, record, keep_iterates: as for :func:`logistic_gd`.
        pick: of the wrong examples, the "first", the one with the "worst" margin, or one at "random".
        generator: source of randomness for "random", on X's device.

    Returns:
        :class:`LinearResult`; with a warning if not separated.

    Raises:
        ValueError: as for :func:`logistic_gd`; an unknown ``pick``.

    Example:
        >>> perceptron([[1.0, 0.5], [2.0, -1.0], [-1.0, 1.0]], [1, 1, -1]).theta
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    if pick not in ("first", "worst", "random"):
        raise ValueError(f"unknown pick {pick!r} (choose from first, worst, random)")
    rows = signed_rows(X, y, fit_intercept)

    def weights(t: int, margins: Tensor) -> Tensor:
        wrong = margins <= tol_margin
        if pick == "worst":
            chosen = margins.argmin()
        elif pick == "first":
            chosen = wrong.int().argmax()
        else:
            chosen = torch.multinomial(wrong.to(rows), 1, generator=generator)[0]
        return torch.zeros_like(margins).index_fill_(0, chosen, 1.0)

    return iterate(rows, weights, max_iter, tol_margin, record, keep_iterates)
