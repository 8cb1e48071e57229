"""Closed forms against the paper's numbers and against random prompts. The paper's step is this one over n."""

import pytest
import torch

from thalweg.linalg.in_context_step import (
    best_scalar_step,
    one_step_half_loss,
    optimal_gd_step,
    optimal_lsa_preconditioner,
    optimal_relu_step,
    preconditioned_gd_predict,
)
from thalweg.tasks.regression_prompts import linear_prompts, relu_prompts

F64 = torch.float64
COV = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25], dtype=F64))


def random_cov(dim=5, seed=0):
    a = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return a @ a.T / dim + 0.3 * torch.eye(dim, dtype=F64)


def test_numbers_of_the_isotropic_law():
    assert optimal_gd_step(5, 10, 0.5) / 10 == pytest.approx(0.0606061, abs=1e-7)
    assert one_step_half_loss(optimal_gd_step(5, 10, 0.5), torch.eye(5), 10, 0.5) == pytest.approx(0.984848, abs=1e-6)
    assert optimal_gd_step(1, 1) == pytest.approx(1 / 3)  # the fourth moment of a Gaussian is 3
    assert optimal_relu_step(5, 10, 0.5) / 10 == pytest.approx(0.04)


def test_gaussian_law_of_the_sibling_paper():
    """Best step for coordinates of moments s2 and m4: s2 / ((n - 1)/n s2^2 + (m4 + (d - 1) s2^2)/n) at s2 = 1, m4 = 3."""
    d, n = 5, 10
    assert optimal_gd_step(d, n) == pytest.approx(1 / ((n - 1) / n + (3 + d - 1) / n))


@pytest.mark.parametrize("c", [0.3, 2.0])
def test_scaled_identity(c):
    gamma = optimal_lsa_preconditioner(c * torch.eye(4), 7, 0.5)
    assert torch.allclose(gamma, 7 / (8 * c + 4 * c + 0.5) * torch.eye(4, dtype=F64))


def test_many_examples_give_newtons_step():
    cov = random_cov()
    assert torch.allclose(optimal_lsa_preconditioner(cov, 10**8), torch.linalg.inv(cov), rtol=1e-5)


def test_inverse_weights_give_the_isotropic_step_after_whitening():
    inverse = torch.linalg.inv(COV)
    gamma = optimal_lsa_preconditioner(COV, 10, 0.5, "inverse")
    assert torch.allclose(gamma, inverse * optimal_gd_step(5, 10, 0.5))
    assert torch.allclose(gamma, optimal_lsa_preconditioner(COV, 10, 0.5, inverse))
    assert one_step_half_loss(gamma, COV, 10, 0.5, "inverse") == pytest.approx(0.984848, abs=1e-6)
    scalar = best_scalar_step(COV, 10, 0.5, "inverse")
    assert one_step_half_loss(scalar, COV, 10, 0.5, "inverse") == pytest.approx(1.646, abs=1e-3)


def test_least_squares_on_prompts_finds_the_preconditioner():
    """Regress w on h over 2e5 prompts; every entry within 4 heteroscedasticity-robust standard errors."""
    cov, weight_cov, n = COV, random_cov(seed=3), 10
    draws = torch.Generator().manual_seed(0)
    prompts = linear_prompts(200_000, n, 5, noise_var=0.5, cov=cov, weight_cov=weight_cov, generator=draws)
    h = (prompts.X * prompts.y[..., None]).mean(1)
    target = prompts.yq[:, None] * prompts.xq @ torch.linalg.inv(cov)  # its mean given the examples is w's
    bread = torch.linalg.inv(h.T @ h)
    fit = bread @ h.T @ target
    errors = target - h @ fit
    theory = optimal_lsa_preconditioner(cov, n, 0.5, weight_cov)
    for column in range(5):
        scores = h * errors[:, column : column + 1]
        standard = (bread @ (scores.T @ scores) @ bread).diagonal().sqrt()
        assert ((fit[:, column] - theory[column]).abs() < 4 * standard).all()
        assert (standard < 0.2 * theory.diagonal().min()).all()


def test_half_loss_is_what_prompts_cost():
    cov, weight_cov = random_cov(3, 1), random_cov(3, 2)
    gamma = torch.tensor([[0.5, 0.1, 0.0], [-0.2, 0.3, 0.1], [0.0, 0.2, 0.8]], dtype=F64)
    draws = torch.Generator().manual_seed(1)
    prompts = linear_prompts(100_000, 4, 3, noise_var=0.5, cov=cov, weight_cov=weight_cov, generator=draws)
    halves = (preconditioned_gd_predict(prompts.X, prompts.y, prompts.xq, gamma) - prompts.yq).square() / 2
    exact = one_step_half_loss(gamma, cov, 4, 0.5, weight_cov)
    assert halves.mean().item() == pytest.approx(exact, abs=4 * (halves.std() / 100_000**0.5).item())


@pytest.mark.parametrize("weight_cov", ["identity", "inverse", random_cov(seed=5)])
def test_no_other_preconditioner_is_better(weight_cov):
    cov, draws = random_cov(seed=4), torch.Generator().manual_seed(0)
    best = optimal_lsa_preconditioner(cov, 6, 0.2, weight_cov)
    least = one_step_half_loss(best, cov, 6, 0.2, weight_cov)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(10):
            other = best + size * torch.randn(5, 5, generator=draws, dtype=F64)
            assert one_step_half_loss(other, cov, 6, 0.2, weight_cov) > least
    scalar = best_scalar_step(cov, 6, 0.2, weight_cov)
    assert all(
        one_step_half_loss(scalar, cov, 6, 0.2, weight_cov) < one_step_half_loss(scalar + e, cov, 6, 0.2, weight_cov)
        for e in (-1e-3, 1e-3)
    )


@pytest.mark.parametrize("n", [1, 4, 30])
def test_no_layer_of_one_input_beats_the_step(n):
    """All layers at d = 1 without noise: E (S (u1 + u2 w)(m1 + m2 w) - w)^2, S chi-square of n degrees, exactly."""
    draws = torch.Generator().manual_seed(n)
    u1, u2, m1, m2 = torch.randn(4, 200_000, generator=draws, dtype=F64) / n**0.5
    a, b, c = u1 * m1, u1 * m2 + u2 * m1, u2 * m2
    loss = n * (n + 2) * (a**2 + b**2 + 3 * c**2 + 2 * a * c) - 2 * n * b + 1
    least = 2 * one_step_half_loss(optimal_gd_step(1, n), torch.eye(1), n)
    assert least == pytest.approx(1 - n / (n + 2))
    assert least <= loss.min() < least + 0.05


@pytest.mark.parametrize("units", [1, 8])
def test_relu_step_on_prompts(units):
    """The best step for the prompts, E[g x_q . h] / E[(x_q . h)^2], and its loss; any number of units."""
    dim, n, count = 3, 4, 60_000
    draws = torch.Generator().manual_seed(units)
    prompts = relu_prompts(count, n, dim, units=units, noise_var=0.5, generator=draws)
    unit = preconditioned_gd_predict(prompts.X, prompts.y, prompts.xq, 1.0)
    step = optimal_relu_step(dim, n, 0.5)
    slope = prompts.yq * unit - step * unit.square()  # mean zero at the best step
    assert abs(slope.mean()) < 4 * slope.std() / count**0.5
    halves = (step * unit - prompts.yq).square() / 2
    assert abs(halves.mean() - (dim / 2 - dim * step / 4) / 2) < 4 * halves.std() / count**0.5


def test_predict_is_a_step_of_autograd():
    draws = torch.Generator().manual_seed(0)
    prompts = linear_prompts(1, 6, 3, generator=draws)
    w = torch.zeros(3, dtype=F64, requires_grad=True)
    loss = (prompts.X[0] @ w - prompts.y[0]).square().mean() / 2
    (gradient,) = torch.autograd.grad(loss, w)
    gamma = random_cov(3)
    found = preconditioned_gd_predict(prompts.X, prompts.y, prompts.xq, gamma)
    assert found.item() == pytest.approx((prompts.xq[0] @ (-gamma @ gradient)).item())
    plain = preconditioned_gd_predict(prompts.X, prompts.y, prompts.xq, 0.3)
    assert plain.item() == pytest.approx((prompts.xq[0] @ (-0.3 * gradient)).item())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimal_gd_step(0, 1), "dim and n must be at least 1, not 0 and 1"),
        (lambda: optimal_relu_step(1, 0), "dim and n must be at least 1, not 1 and 0"),
        (lambda: optimal_gd_step(1, 1, -1.0), "noise_var must be at least 0"),
        (lambda: optimal_lsa_preconditioner(torch.ones(2, 2), 1), "cov must be a symmetric positive definite"),
        (lambda: optimal_lsa_preconditioner(torch.tensor([[1.0, 0.5], [0.0, 1.0]]), 1), "symmetric"),
        (
            lambda: optimal_lsa_preconditioner(torch.eye(2), 1, 0.0, torch.eye(3)),
            r"weight_cov must have the shape \(2, 2\)",
        ),
        (lambda: optimal_lsa_preconditioner(torch.eye(2), 1, 0.0, "none"), "'identity', 'inverse' or a matrix"),
        (lambda: one_step_half_loss(torch.eye(3), torch.eye(2), 1), r"gamma must have the shape \(2, 2\)"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
