import math

import pytest
import torch
from torch import nn

from thalweg.probe import (
    HypothesisPosterior,
    kernel_hypothesis_posterior,
    kernel_inductive_bias,
    network_test_errors,
    rbf_kernel,
    required_inductive_bias,
    sample_test_errors,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(d=3, n=20, tests=30, length_scale=1.0, outputs=2):
    X, X_test = normal(n, d), normal(tests, d, seed=1)
    Y, Y_test = X[:, :1].sin().expand(-1, outputs), X_test[:, :1].sin().expand(-1, outputs)
    return kernel_hypothesis_posterior(X, Y, X_test, rbf_kernel(length_scale)), Y_test


def test_posterior_against_plain_algebra():
    X, X_test, Y = normal(6, 2), normal(4, 2, seed=1), normal(6, 3, seed=2)

    def kernel(A, B):
        return torch.stack([torch.stack([torch.exp(-(a - b).square().sum() / 4) for b in B]) for a in A])

    inverse = torch.linalg.inv(kernel(X, X) + 1e-6 * torch.eye(6))
    found = kernel_hypothesis_posterior(X, Y, X_test)
    assert torch.allclose(found.mean, kernel(X_test, X) @ inverse @ Y, atol=1e-7)
    cov = kernel(X_test, X_test) - kernel(X_test, X) @ inverse @ kernel(X, X_test)
    assert torch.allclose(found.cov, cov, atol=1e-7)


def test_hypotheses_pass_through_the_training_data():
    X, Y = normal(20, 3), normal(20, 1, seed=1)
    found = kernel_hypothesis_posterior(X, Y, X, rbf_kernel(0.3))
    assert torch.allclose(found.mean, Y, atol=1e-4)
    assert found.cov.diagonal().abs().max() < 1e-5


def test_linear_models_are_a_kernel_of_features():
    """As many examples as features: one hypothesis fits, and there is nothing left to choose."""
    X, w = normal(3, 3), normal(3, 1, seed=1)
    X_test = normal(5, 3, seed=2)
    found = kernel_hypothesis_posterior(X, X @ w, X_test, lambda A, B: A @ B.mT, jitter=1e-12)
    assert torch.allclose(found.mean, X_test @ w, atol=1e-6) and found.cov.abs().max() < 1e-6


def test_sampled_errors_have_the_law_s_moments():
    posterior, Y_test = problem()
    errors = sample_test_errors(posterior, Y_test, 20_000, generator=torch.Generator().manual_seed(0))
    lam, V = torch.linalg.eigh(posterior.cov)
    b = (V.T @ (posterior.mean - Y_test)).square()
    lam = lam.clamp(min=0)[:, None]
    mean, variance = (lam + b).mean(), (2 * lam**2 + 4 * lam * b).sum() / b.numel() ** 2
    assert errors.mean() == pytest.approx(mean.item(), rel=0.02)
    assert errors.var() == pytest.approx(variance.item(), rel=0.05)


def test_errors_are_those_of_drawn_functions():
    """The same law as that of functions drawn by a Cholesky factor."""
    posterior, Y_test = problem()
    half = torch.linalg.cholesky(posterior.cov + 1e-9 * torch.eye(len(Y_test)))
    drawn = posterior.mean + half @ normal(20_000, *Y_test.shape, seed=3)
    plain = (drawn - Y_test).square().mean((1, 2))
    errors = sample_test_errors(posterior, Y_test, 20_000, generator=torch.Generator().manual_seed(0))
    at = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    assert torch.allclose(errors.quantile(at), plain.quantile(at), rtol=0.03)


@pytest.mark.parametrize("fit", ["moments", "mle"])
def test_chi_squared_errors(fit):
    errors = normal(20_000, 10, seed=4).square().mean(1)
    found = required_inductive_bias(errors, 0.5, fit=fit, unit="nats")
    assert found.value == pytest.approx(2.21804, rel=0.02) and found.low < found.value < found.high
    assert (found.shape, found.scale) == (pytest.approx(5, rel=0.02), pytest.approx(0.2, rel=0.02))
    bits = required_inductive_bias(errors, 0.5, fit=fit)
    assert bits.value == pytest.approx(found.value / math.log(2))


def test_likeliest_gamma_against_scipy():
    from scipy import stats

    errors = torch.distributions.Gamma(0.7, 2.0).sample((500,)).double()
    shape, _, scale = stats.gamma.fit(errors.numpy(), floc=0)
    found = required_inductive_bias(errors, 0.1, fit="mle")
    assert (found.shape, found.scale) == (pytest.approx(shape, rel=1e-4), pytest.approx(scale, rel=1e-4))


def test_a_fitted_tail_is_off_where_weights_differ():
    """The truth is 0.177271, by two quadratures; a gamma law of the same moments says 0.21549. Not hidden."""
    z = normal(40_000, 2)
    errors = z[:, 0] ** 2 + 0.25 * z[:, 1] ** 2
    found = required_inductive_bias(errors, 0.2, unit="nats")
    assert math.exp(-found.value) == pytest.approx(0.21549, rel=0.02)
    assert (errors <= 0.2).double().mean().item() == pytest.approx(0.177271, rel=0.02)


def test_kernel_bias_against_counting():
    posterior, Y_test = problem(length_scale=0.5)
    errors = sample_test_errors(posterior, Y_test, 50_000, generator=torch.Generator().manual_seed(0))
    for share in (0.01, 0.1, 0.5):
        eps = errors.quantile(share).item()
        assert kernel_inductive_bias(posterior, Y_test, eps, unit="nats") == pytest.approx(-math.log(share), rel=0.03)


def test_less_error_takes_more_bias():
    posterior, Y_test = problem()
    found = kernel_inductive_bias(posterior, Y_test, (1e-3, 1e-2, 0.1, 1.0, 1e3))
    assert found[2] == kernel_inductive_bias(posterior, Y_test, 0.1)
    assert found == sorted(found, reverse=True) and found[-1] == pytest.approx(0, abs=1e-12)
    errors = sample_test_errors(posterior, Y_test, 200, generator=torch.Generator().manual_seed(0))
    fitted = [required_inductive_bias(errors, eps).value for eps in (1e-3, 1e-2, 0.1, 1.0, 1e3)]
    assert fitted == sorted(fitted, reverse=True)


def test_scaling_targets_and_eps_together_changes_nothing():
    posterior, Y_test = problem()
    scaled = HypothesisPosterior(3 * posterior.mean, 9 * posterior.cov)
    assert kernel_inductive_bias(scaled, 3 * Y_test, 9 * 0.1) == pytest.approx(
        kernel_inductive_bias(posterior, Y_test, 0.1), rel=1e-8
    )
    errors = sample_test_errors(posterior, Y_test, 100, generator=torch.Generator().manual_seed(0))
    assert required_inductive_bias(9 * errors, 0.9).value == pytest.approx(required_inductive_bias(errors, 0.1).value)


def test_what_no_hypothesis_can_change():
    """A direction without variance adds its error to all: less than that is out of reach."""
    posterior = HypothesisPosterior(torch.tensor([[0.0], [1.0]]), torch.diag(torch.tensor([1.0, 0.0])))
    target = torch.zeros(2, 1)
    assert kernel_inductive_bias(posterior, target, 0.49) == math.inf
    free = HypothesisPosterior(torch.zeros(1, 1), torch.eye(1))
    assert kernel_inductive_bias(posterior, target, 0.7) == pytest.approx(
        kernel_inductive_bias(free, torch.zeros(1, 1), 0.4)
    )
    fixed = HypothesisPosterior(torch.ones(2, 1), torch.zeros(2, 2))
    assert (kernel_inductive_bias(fixed, target, 2.0), kernel_inductive_bias(fixed, target, 0.5)) == (0, math.inf)


def test_equal_errors_warn():
    with pytest.warns(UserWarning, match="no tail"):
        assert required_inductive_bias(torch.ones(10), 0.5).value == math.inf
    with pytest.warns(UserWarning, match="no tail"):
        assert required_inductive_bias(torch.ones(10), 2.0).value == 0


def test_networks_that_fit():
    """Only networks that fit count: here those with an even number."""
    X, X_test = normal(4, 1), normal(4, 1, seed=1)

    def train(start):
        model = nn.Linear(1, 1).double()
        with torch.no_grad():
            model.weight.fill_(1.0 if start % 2 == 0 else 5.0)
            model.bias.zero_()
        return model

    assert network_test_errors(train, (X, X), (X_test, X_test + 1), num=5).tolist() == pytest.approx([1.0] * 3)
    with pytest.raises(RuntimeError, match="none of 1 networks"):
        network_test_errors(train, (X, -X), (X_test, X_test), num=1)


ERRORS = torch.linspace(1, 2, 10)


@pytest.mark.parametrize(
    ("errors", "eps", "options", "message"),
    [
        (ERRORS[:9], 0.1, {}, "ten or more"),
        (ERRORS * torch.inf, 0.1, {}, "ten or more"),
        (-ERRORS, 0.1, {}, "ten or more"),
        (ERRORS, 0.0, {}, "eps must be positive"),
        (ERRORS, 0.1, {"fit": "none"}, "fit must be"),
        (ERRORS, 0.1, {"unit": "bytes"}, "unit must be"),
    ],
)
def test_what_is_refused(errors, eps, options, message):
    with pytest.raises(ValueError, match=message):
        required_inductive_bias(errors, eps, **options)


def test_shapes_and_scales_are_checked():
    X, Y = torch.zeros(3, 2), torch.zeros(3, 1)
    for arguments in ((X, Y[:2], X), (X, Y[:, 0], X), (X, Y, X[:, :1])):
        with pytest.raises(ValueError, match="X, Y and X_test must be"):
            kernel_hypothesis_posterior(*arguments)
    with pytest.raises(ValueError, match="jitter"):
        kernel_hypothesis_posterior(X, Y, X, jitter=0.0)
    with pytest.raises(ValueError, match="length_scale"):
        rbf_kernel(0.0)
    posterior = HypothesisPosterior(Y, torch.eye(3))
    with pytest.raises(ValueError, match="mean, cov and Y_test"):
        sample_test_errors(posterior, Y[:2])
    with pytest.raises(ValueError, match="num_samples"):
        sample_test_errors(posterior, Y, 0)
