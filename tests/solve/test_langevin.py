import pytest
import torch

from thalweg.solve import langevin_samples


def of(start, log_likelihood=lambda w: 0 * w.sum(1), seed=0, **options):
    return langevin_samples(log_likelihood, start, generator=torch.Generator().manual_seed(seed), **options)


def test_posterior_of_a_normal_mean():
    """Ten examples of variance 1 and mean 1.5, a prior of variance 4: the posterior is normal too."""
    n, mean, prior_std = 10, 1.5, 2.0
    found = of(
        torch.zeros(400, 1, dtype=torch.float64),
        lambda w: -0.5 * n * (w[:, 0] - mean).square(),
        step_size=0.01,
        steps=1500,
        burn_in=300,
        every=10,
        prior_std=prior_std,
    )
    assert found.shape == (120, 400, 1)
    precision = n + 1 / prior_std**2
    assert found.mean() == pytest.approx(n * mean / precision, rel=0.01)
    assert found.var() == pytest.approx(1 / precision, rel=0.05)


def test_variance_of_finite_steps_is_the_recursion_s():
    """A linear recursion: variance h / (1 - (1 - h / 2)^2), larger than the prior's 1."""
    h = 0.5
    found = of(torch.zeros(20_000, 1), step_size=h, steps=60, burn_in=50, every=10)
    assert found.var() == pytest.approx(h / (1 - (1 - h / 2) ** 2), rel=0.03)


def test_without_temperature_it_is_gradient_descent():
    found = of(torch.ones(1, 2), step_size=0.2, steps=3, temperature=0.0)
    assert found[:, 0, 0].tolist() == pytest.approx([0.9, 0.81, 0.729])


def test_chains_do_not_touch_and_the_start_stays():
    start = torch.zeros(2, 1)
    calm = of(start, step_size=0.1, steps=5)
    pulled = of(start, lambda w: torch.stack([0 * w[0, 0], w[1, 0]]), step_size=0.1, steps=5)
    assert torch.equal(calm[:, 0], pulled[:, 0]) and not torch.equal(calm[:, 1], pulled[:, 1])
    assert torch.equal(start, torch.zeros(2, 1)) and not pulled.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0, "steps": 1}, "step_size"),
        ({"step_size": 0.1, "steps": 1, "prior_std": 0.0}, "prior_std"),
        ({"step_size": 0.1, "steps": 1, "temperature": -1.0}, "temperature"),
        ({"step_size": 0.1, "steps": 5, "burn_in": 5}, "no step"),
        ({"step_size": 0.1, "steps": 5, "every": 0}, "no step"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        of(torch.zeros(1, 1), **options)


def test_too_large_a_step():
    with pytest.raises(RuntimeError, match="smaller steps"):
        of(torch.ones(1, 1), lambda w: -w.pow(4).sum(1), step_size=10.0, steps=50)
