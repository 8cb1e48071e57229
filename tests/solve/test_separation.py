"""Margins, bounds and what malformed problems are told."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from thalweg.linalg import InfeasibleError
from thalweg.solve import batch_perceptron, iteration_bound, logistic_gd, margin, perceptron

SQUARE = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
SOLVERS = (logistic_gd, batch_perceptron, perceptron, margin)


def test_margin_of_a_known_problem() -> None:
    mu, theta = margin(SQUARE, [1, 1, -1, -1])
    assert mu == pytest.approx(1.0, rel=1e-12)
    torch.testing.assert_close(theta, torch.tensor([1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_an_intercept_is_a_column_of_ones() -> None:
    X, y = [[1.0], [3.0]], [0, 1]
    with pytest.raises(InfeasibleError, match="no linear separator"):
        margin(X, y)
    mu, theta = margin(X, y, fit_intercept=True)
    assert mu == pytest.approx(5**-0.5, rel=1e-12)  # theta = (1, -2) / sqrt 5 meets both points at distance 1 / sqrt 5
    torch.testing.assert_close(theta, torch.tensor([1.0, -2.0], dtype=torch.float64) / 5**0.5)
    result = logistic_gd(X, y, step=10.0, fit_intercept=True)
    assert result.separated and result.theta.shape == (2,)


def test_labels_of_both_kinds_are_the_same() -> None:
    for y in ([0, 0, 1, 1], torch.tensor([False, False, True, True])):
        expected = logistic_gd(SQUARE, [-1, -1, 1, 1], step=3.0, max_iter=10)
        assert torch.equal(logistic_gd(SQUARE, y, step=3.0, max_iter=10).theta, expected.theta)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (SQUARE, [1, 2, 1, 2], "y must hold both of two classes, written as -1 and 1 or as 0 and 1; found: 1, 2"),
        (SQUARE, [1, 1, 1, 1], "y must hold both of two classes"),
        (SQUARE, [0.0, 1.0, math.nan, 1.0], "y must hold both of two classes"),
        (SQUARE * math.nan, [1, 1, -1, -1], "X holds NaN or infinity"),
        (SQUARE, [1, -1], r"X must be (n, d) and y (n,), not (4, 2) and (2,)"),
        (SQUARE[0], [1, -1], r"X must be (n, d) and y (n,), not (2,) and (2,)"),
    ],
)
def test_malformed_problems(solver, X: torch.Tensor, y: list[float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        solver(X, y)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("solver", SOLVERS[:3])
def test_overlapping_classes_end_with_a_warning(solver) -> None:
    with pytest.warns(UserWarning, match="not separated in 7 iterations") as caught:
        result = solver(SQUARE, [1, -1, -1, 1], max_iter=7)
    assert caught[0].filename == __file__  # it points at the caller
    assert not result.separated and result.iterations is None
    assert result.history.loss.shape == (8,)
    with pytest.raises(InfeasibleError):
        margin(SQUARE, [1, -1, -1, 1])


@pytest.mark.parametrize("solver", SOLVERS[:3])
def test_what_is_recorded(solver) -> None:
    y = [1, 1, -1, -1]
    full = solver(SQUARE, y, keep_iterates=True)
    assert full.history.theta.shape == (full.iterations + 1, 2)
    assert torch.equal(full.history.theta[-1], full.theta) and not full.history.theta[0].any()
    assert full.history.accuracy[-1] == 1 and full.history.accuracy[0] == 0
    assert full.history.loss[0].item() == pytest.approx(math.log(2))
    assert full.history.grad_norm[0].item() == pytest.approx(0.5)
    assert solver(SQUARE, y, record=False).history is None
    only = solver(SQUARE, y, record=False, keep_iterates=True).history
    assert only.theta.shape == full.history.theta.shape and only.loss.numel() == 0


def test_float32_stays_float32_and_wholes_become_float64() -> None:
    y = [1, 1, -1, -1]
    assert logistic_gd(SQUARE.float(), y).theta.dtype is torch.float32
    assert logistic_gd(SQUARE.int(), y).theta.dtype is torch.float64
    assert logistic_gd(SQUARE.numpy(), y).theta.dtype is torch.float64


def test_a_margin_can_be_asked_for() -> None:
    y = [1, 1, -1, -1]
    result = logistic_gd(SQUARE, y, step=1.0, tol_margin=2.5)
    assert result.theta[0] > 2.5 and result.iterations > logistic_gd(SQUARE, y, step=1.0).iterations


def test_bounds() -> None:
    known = {"n": 100, "R": 3.0, "mu": 0.5}
    assert iteration_bound("perceptron", **known) == 36
    assert iteration_bound("normalized_batch_perceptron", **known) == 36
    assert iteration_bound("batch_perceptron", **known) == 3600
    expected = 36 + 2 * math.log(199) / (10 * 0.25)
    assert iteration_bound("normalized_logistic_gd", **known, step=10) == pytest.approx(expected)
    for change, message in (
        ({"kind": "svm"}, "unknown kind 'svm'"),
        ({"mu": 0.0}, "n, R and mu must be positive"),
        ({"step": None}, "step must be positive, not None"),
    ):
        with pytest.raises(ValueError, match=message):
            iteration_bound(**{"kind": "normalized_logistic_gd", **known, "step": 1.0, **change})


def test_max_iter_must_be_positive() -> None:
    with warnings.catch_warnings(), pytest.raises(ValueError, match="max_iter must be at least 1"):
        logistic_gd(SQUARE, [1, 1, -1, -1], max_iter=0)
