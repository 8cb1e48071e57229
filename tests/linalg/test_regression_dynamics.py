import math

import pytest
import torch

from thalweg.linalg.regression_dynamics import (
    generalization_curve,
    late_error,
    optimal_ridge_error,
    optimal_stopping,
)

ALPHAS = (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)


@pytest.mark.parametrize(("alpha", "inr"), [(0.5, 0.0), (1.0, 1.0), (2.0, 0.3)])
def test_at_the_start_nothing_is_learnt(alpha, inr):
    test, train = generalization_curve(alpha, 5.0, torch.tensor([0.0]), inr=inr)
    assert test.item() == pytest.approx(1.2 + inr, rel=1e-9)
    assert train.item() == pytest.approx(1.2 + inr, rel=1e-9)


@pytest.mark.parametrize(
    ("alpha", "inr", "expected"), [(0.5, 0.0, 0.9), (2.0, 0.0, 0.4), (0.5, 1.0, 1.4), (2.0, 1.0, 0.4)]
)
def test_late_error(alpha, inr, expected):
    assert late_error(alpha, 5.0, inr=inr) == pytest.approx(expected, rel=1e-12)
    test, train = generalization_curve(alpha, 5.0, torch.tensor([1e4]), inr=inr)
    assert test.item() == pytest.approx(expected, rel=1e-9)
    assert train.item() == pytest.approx(max(0, 1 - 1 / alpha) / 5, abs=1e-9)


def test_without_noise():
    assert late_error(2.0, math.inf) == 0 and late_error(1.0, math.inf) == 0
    assert late_error(0.25, math.inf, inr=1.0) == 1.5
    assert optimal_stopping(2.0, math.inf) == (math.inf, 0.0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_order_of_estimators_and_the_best_time(alpha):
    time, error = optimal_stopping(alpha, 5.0)
    assert optimal_ridge_error(alpha, 5.0) <= error <= late_error(alpha, 5.0)
    near = generalization_curve(alpha, 5.0, time * torch.tensor([0.9, 0.99, 1.0, 1.01, 1.1], dtype=torch.float64))[0]
    assert near.argmin() == 2


def test_against_gradient_descent_on_a_sample():
    """N = 1200: no expectation is taken but over this one sample of X; teacher and noise are averaged exactly."""
    n, alpha, snr, inr, lr = 1200, 0.5, 5.0, 0.5, 0.01
    X = torch.randn(n, int(alpha * n), generator=torch.Generator().manual_seed(0), dtype=torch.float64) / math.sqrt(n)
    values = torch.linalg.eigvalsh(X.T @ X)
    times = torch.tensor([0.5, 2.0, 10.0], dtype=torch.float64)
    left = (1 - lr * values) ** (times / lr).unsqueeze(1)  # discrete steps in the eigenbasis
    test = ((1 + inr) * left**2 + (1 - left) ** 2 / (values * snr)).sum(1) / n + (1 - alpha) * (1 + inr) + 1 / snr
    train = ((values * (1 + inr) + 1 / snr) * left**2).mean(1)
    predicted = generalization_curve(alpha, snr, times, inr=inr)
    assert torch.allclose(predicted[0], test, rtol=0.01)
    assert torch.allclose(predicted[1], train, rtol=0.03, atol=1e-3)


@pytest.mark.parametrize("arguments", [(0.0, 1.0), (1.0, 0.0), (-1.0, 5.0)])
def test_what_is_refused(arguments):
    for function in (late_error, optimal_stopping, optimal_ridge_error):
        with pytest.raises(ValueError, match="must be positive"):
            function(*arguments)
    with pytest.raises(ValueError, match="at least 0"):
        generalization_curve(1.0, 1.0, torch.tensor([-1.0]))
