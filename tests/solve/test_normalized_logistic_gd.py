"""Logistic gradient descent: hand steps, the paper's worst case, its limit, its bounds, and the loss for linear heads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from thalweg.solve import (
    batch_perceptron,
    iteration_bound,
    logistic_gd,
    logistic_scale,
    margin,
    normalized_logistic_loss,
    perceptron,
)


def worst_case(n: int) -> tuple[Tensor, Tensor]:
    """One example against n - 1 equal ones of the other class."""
    X = torch.tensor([[0.5, -1.0]] + [[-0.5, -1.0]] * (n - 1), dtype=torch.float64)
    return X, torch.tensor([1] + [-1] * (n - 1))


def separable(seed: int, n: int = 30, d: int = 4, gap: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=generator, dtype=torch.float64)
    direction = nn.functional.normalize(torch.randn(d, generator=generator, dtype=torch.float64), dim=0)
    y = torch.where(X @ direction > 0, 1, -1)
    y[0] = -y[1] if (y == y[0]).all() else y[0]
    return X + gap * y[:, None] * direction, y


@pytest.mark.parametrize(
    ("n", "step", "normalized", "count"),
    [
        (1000, 100, False, 308),
        (1000, 100, True, 2),
        (1000, 10, True, 2),
        (1000, 1, True, 16),
        (1000, 0.1, True, 157),
        (100, 100, False, 31),
        (100, 1, True, 11),
        (100, 0.1, True, 110),
    ],
)
def test_counts_on_the_worst_case(n: int, step: float, normalized: bool, count: int) -> None:
    assert logistic_gd(*worst_case(n), step, normalized=normalized, record=False).iterations == count


def test_perceptrons_on_the_worst_case() -> None:
    for n, count in ((1000, 301), (100, 31)):
        assert batch_perceptron(*worst_case(n), record=False).iterations == count
        assert batch_perceptron(*worst_case(n), normalized=True, record=False).iterations == 2


def test_two_points_by_hand() -> None:
    X, y = torch.tensor([[1.0, -1.0], [-1.0, -4.0]], dtype=torch.float64), [1, -1]
    large, middle = (logistic_gd(X, y, step, keep_iterates=True).history for step in (100.0, 10.0))
    torch.testing.assert_close(large.theta[1] / 100, torch.tensor([0.5, 0.75], dtype=torch.float64), rtol=1e-15, atol=0)
    torch.testing.assert_close(large.theta[2] / 100, torch.tensor([1, 0.25], dtype=torch.float64), rtol=0, atol=1e-9)
    for history, losses in ((large, (0.6931, 12.5, 1.34e-33)), (middle, (0.6931, 1.289445, 5.901e-4))):
        for value, expected in zip(history.loss.tolist(), losses, strict=True):
            assert value == pytest.approx(expected, rel=2e-3)


@pytest.mark.filterwarnings("ignore:not separated")
def test_steps_are_those_of_autograd() -> None:
    X, y = separable(0)
    for normalized in (False, True):
        kept = logistic_gd(X, y, 3.0, normalized=normalized, tol_margin=5.0, max_iter=20, keep_iterates=True)
        for old, new, norm in zip(kept.history.theta, kept.history.theta[1:], kept.history.grad_norm, strict=False):
            theta = old.clone().requires_grad_()
            margins = y * (X @ theta)
            (gradient,) = torch.autograd.grad(nn.functional.softplus(-margins).mean(), theta)
            scale = 1 / torch.sigmoid(-margins).mean() if normalized else 1
            torch.testing.assert_close(new, (old - 3.0 * scale * gradient).detach(), rtol=1e-12, atol=1e-14)
            assert norm.item() == pytest.approx(gradient.norm().item(), rel=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_bounds_hold(seed: int) -> None:
    X, y = separable(seed, n=20 + seed, d=2 + seed % 5, gap=0.1 + 0.02 * (seed % 10))
    mu, theta = margin(X, y)
    sizes = {"n": len(X), "R": X.norm(dim=1).max().item(), "mu": mu}
    assert (y * (X @ theta)).min().item() == pytest.approx(mu, rel=1e-9)
    for pick in ("first", "worst", "random"):
        result = perceptron(X, y, pick, generator=torch.Generator().manual_seed(seed), record=False)
        assert result.iterations <= iteration_bound("perceptron", **sizes)
    found = batch_perceptron(X, y, normalized=True, record=False)
    assert found.iterations <= iteration_bound("normalized_batch_perceptron", **sizes)
    assert batch_perceptron(X, y, record=False).iterations <= iteration_bound("batch_perceptron", **sizes)
    for step in (1.0, 30.0):
        result = logistic_gd(X, y, step, normalized=True, record=False)
        assert result.iterations <= iteration_bound("normalized_logistic_gd", **sizes, step=step)
        assert (y * (X @ result.theta) > 0).all()


@pytest.mark.parametrize("normalized", [False, True])
def test_scaling_the_data_scales_the_step(normalized: bool) -> None:
    X, y = separable(1)
    one = logistic_gd(X, y, 8.0, normalized=normalized, tol_margin=3.0, keep_iterates=True)
    two = logistic_gd(4 * X, y, 0.5, normalized=normalized, tol_margin=3.0, keep_iterates=True)
    assert one.iterations == two.iterations
    torch.testing.assert_close(one.history.theta @ X.T, two.history.theta @ (4 * X).T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_huge_steps_are_the_batch_perceptron(seed: int) -> None:
    X, y = separable(seed, n=60, d=6, gap=0.05)
    logistic = logistic_gd(X, y, 1e8, keep_iterates=True, record=False)
    batch = batch_perceptron(X, y, keep_iterates=True, record=False)
    assert logistic.iterations == batch.iterations
    torch.testing.assert_close(logistic.history.theta / 1e8, batch.history.theta, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_stay_finite_where_all_weights_underflow(dtype: torch.dtype) -> None:
    X, y = separable(2)
    X = X.to(dtype)
    theta = (1000 / margin(X, y)[0] * margin(X, y)[1]).to(dtype)
    margins = y * (X @ theta)
    assert margins.min() > 800 and torch.sigmoid(-margins).sum() == 0
    head = theta.clone().requires_grad_()
    normalized_logistic_loss(X @ head, y).backward()
    assert head.grad.isfinite().all() and 0 < head.grad.norm() <= X.norm(dim=1).max()


def test_sgd_on_the_normalized_loss_is_the_solver() -> None:
    X, y = separable(3, n=50, d=5, gap=0.02)
    head = nn.Linear(5, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(head.weight)
    optimizer = torch.optim.SGD(head.parameters(), lr=7.0)
    expected = logistic_gd(X, y, 7.0, normalized=True, keep_iterates=True).history
    assert len(expected.loss) > 3
    for theta, value in zip(expected.theta, expected.loss, strict=True):
        torch.testing.assert_close(head.weight.data[0], theta, rtol=1e-12, atol=1e-13)
        optimizer.zero_grad()
        loss = normalized_logistic_loss(head(X), (y + 1) // 2)
        torch.testing.assert_close(loss.detach(), value)
        loss.backward()
        optimizer.step()


def test_the_scale_is_the_inverse_mean_weight() -> None:
    margins = torch.linspace(-3, 4, 11, dtype=torch.float64)
    torch.testing.assert_close(logistic_scale(margins), 1 / torch.sigmoid(-margins).mean())
    assert logistic_scale(torch.full((3,), 300.0, dtype=torch.float64)).log().item() == pytest.approx(300)
    assert logistic_scale(torch.full((3,), 1e4)) == math.inf


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf])
def test_step_must_be_positive(step: float) -> None:
    with pytest.raises(ValueError, match="step must be a positive number"):
        logistic_gd(*worst_case(3), step)


def test_other_errors() -> None:
    with pytest.raises(ValueError, match="unknown pick 'last'"):
        perceptron(*worst_case(3), pick="last")
    with pytest.raises(ValueError, match="one logit for each target: 3 logits, 2 targets"):
        normalized_logistic_loss(torch.zeros(3), torch.zeros(2))
