import math

import pytest
import torch

from thalweg.probe import BayesianMixture, hypothesis_weight, regret_bound

NODES = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
"""Midpoints of a uniform prior over the probability of a coin."""


def coin_divergence(truth, theta=NODES):
    return truth * (truth / theta).log() + (1 - truth) * ((1 - truth) / (1 - theta)).log()


def coin_regret(n, truth, theta, prior):
    """Exact, by all counts of heads."""
    k = torch.arange(n + 1, dtype=torch.float64)
    choose = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    own = k * math.log(truth) + (n - k) * math.log(1 - truth)
    mixture = torch.logsumexp(prior.log()[:, None] + k * theta.log()[:, None] + (n - k) * (1 - theta).log()[:, None], 0)
    return ((choose + own).exp() * (own - mixture)).sum().item()


def test_uniform_prior_over_a_coin():
    """Laplace's mixture has Q = 1 / ((n + 1) C(n, k)); its regret and bound at 100 tosses of a fair coin are known."""
    found = regret_bound(100, coin_divergence(0.5))
    assert found.bound == pytest.approx(2.8051, abs=3e-3) and found.eps == pytest.approx(0.005, rel=0.05)
    regret = coin_regret(100, 0.5, NODES, torch.full((4000,), 1 / 4000, dtype=torch.float64))
    assert regret == pytest.approx(1.5868, abs=1e-3)
    assert regret < found.integral < found.bound


@pytest.mark.parametrize("truth", [0.01, 0.2, 0.5])
@pytest.mark.parametrize("n", [1, 10, 100])
def test_bounds_hold_for_any_prior(truth, n):
    prior = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).pow(3)
    prior /= prior.sum()
    found = regret_bound(n, coin_divergence(truth), prior)
    assert coin_regret(n, truth, NODES, prior) <= found.integral + 1e-12 <= found.bound + 2e-12


def test_bound_is_the_least_over_eps():
    D = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = regret_bound(20, D)
    grid = [
        20 * eps - math.log(hypothesis_weight(D, eps))
        for eps in torch.linspace(D.min().item() + 1e-6, 1, 2001).tolist()
    ]
    assert found.bound <= min(grid) + 1e-12 and found.bound == pytest.approx(min(grid), abs=0.05)
    assert 20 * found.eps - math.log(hypothesis_weight(D, found.eps)) == pytest.approx(found.bound)


def test_weight_is_an_interval_s_length():
    inside = NODES[coin_divergence(0.3) <= 0.02]
    assert hypothesis_weight(coin_divergence(0.3), 0.02) == pytest.approx(
        (inside.max() - inside.min()).item(), abs=3e-4
    )
    assert hypothesis_weight(torch.tensor([1.0, 0.0]), 0.0, torch.tensor([0.25, 0.75])) == 0.75


def test_a_finite_class_that_holds_the_truth():
    D = torch.tensor([0.0, 0.3, math.inf, 2.0])
    for n in (1, 10, 10_000):
        found = regret_bound(n, D)
        assert found.integral <= found.bound <= math.log(4) + 1e-12
    assert regret_bound(10_000, D).integral == pytest.approx(math.log(4))
    assert regret_bound(10_000, D).effective_samples == pytest.approx(1)
    assert regret_bound(1, torch.ones(8)).effective_samples == pytest.approx(8)


def tosses(count=60):
    heads = (torch.rand(count, generator=torch.Generator().manual_seed(1)) < 0.3).double()
    theta = torch.tensor([0.1, 0.3, 0.8], dtype=torch.float64)
    return [theta.log() if head else (1 - theta).log() for head in heads], theta


def test_predictions_multiply_to_the_mixture_s_probability():
    course, theta = tosses()
    mixture, chain = BayesianMixture(torch.tensor([0.5, 0.3, 0.2])), 0.0
    for logp in course:
        chain += mixture.predict(logp.exp()).log().item()
        mixture.update(logp)
    whole = torch.logsumexp(torch.tensor([0.5, 0.3, 0.2]).double().log() + torch.stack(course).sum(0), 0).item()
    assert chain == pytest.approx(whole, abs=1e-6) and mixture.log_loss == pytest.approx(-chain, abs=1e-10)
    assert mixture.posterior.sum() == pytest.approx(1) and mixture.posterior.argmax() == 1
    assert mixture.predict(theta) == pytest.approx(0.3, abs=0.02)


def test_regret_in_a_class_of_k_is_below_log_k_on_every_sequence():
    course, _ = tosses()
    mixture = BayesianMixture(3)
    for t, logp in enumerate(course, 1):
        mixture.update(logp)
        for model in range(3):
            assert mixture.regret(-sum(float(c[model]) for c in course[:t])) <= math.log(3) + 1e-6


def test_doubling_every_model_changes_nothing():
    course, _ = tosses()
    single, double = BayesianMixture(3), BayesianMixture(6)
    for logp in course:
        single.update(logp)
        double.update(logp.repeat(2))
    assert single.log_loss == pytest.approx(double.log_loss, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regret_bound(0, torch.zeros(2)), "n must be"),
        (lambda: regret_bound(1, torch.tensor([-1.0])), "divergences"),
        (lambda: hypothesis_weight(torch.tensor([]), 1.0), "divergences"),
        (lambda: hypothesis_weight(torch.zeros(2), -1.0), "eps"),
        (lambda: hypothesis_weight(torch.zeros(2), 1.0, torch.tensor([0.5, 0.4])), "add up to 1"),
        (lambda: BayesianMixture(torch.tensor([0.7, 0.7])), "add up to 1"),
        (lambda: BayesianMixture(2).update(torch.full((2,), -math.inf)), "every model"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
