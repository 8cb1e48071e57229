import pytest
import torch

from thalweg.solve import SphericalMixtureMLE
from thalweg.tasks.gaussian_clusters import gaussian_clusters


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_centres_are_found():
    X, labels = gaussian_clusters(4, 4000, 3, separation=6.0, noise=1.0, generator=draws(1))
    fit = SphericalMixtureMLE(4).fit(X, generator=draws())
    means = torch.stack([X[labels == k].mean(0) for k in range(4)])
    assert torch.cdist(means, fit.centres_).amin(1).max() < 0.1
    shares = fit.transform(X)
    assert torch.allclose(shares.sum(1), torch.ones(4000, dtype=torch.float64))
    assert (shares.argmax(1).bincount() == 1000).sum() >= 2


@pytest.mark.parametrize("noise_var", [1.0, 0.5])
def test_likelihood_is_that_of_the_mixture_and_never_falls(noise_var):
    X, _ = gaussian_clusters(3, 300, 2, separation=1.0, noise=1.0, generator=draws(2))
    found = []
    for steps in (1, 2, 5, 20, 200):
        fit = SphericalMixtureMLE(3, noise_var, starts=1, max_iter=steps).fit(X, generator=draws(3))
        found.append(fit.log_likelihood_)
    assert found == sorted(found) and found[-1] > found[0]
    eye = noise_var * torch.eye(2, dtype=torch.float64)
    parts = [torch.distributions.MultivariateNormal(u, eye).log_prob(X) for u in fit.centres_]
    likelihood = (torch.stack(parts).logsumexp(0) - torch.tensor(3.0).log()).mean().item()
    assert fit.log_likelihood_ == pytest.approx(likelihood, abs=1e-6)


def test_the_best_start_is_kept():
    X, _ = gaussian_clusters(6, 600, 2, separation=4.0, noise=1.0, generator=draws(4))
    few = SphericalMixtureMLE(6, starts=1).fit(X, generator=draws(5)).log_likelihood_
    assert SphericalMixtureMLE(6, starts=8).fit(X, generator=draws(5)).log_likelihood_ >= few


def test_samples_that_are_alike():
    fit = SphericalMixtureMLE(2).fit(torch.ones(5, 3), generator=draws())
    assert torch.allclose(fit.centres_, torch.ones(2, 3))


@pytest.mark.parametrize(
    "call",
    [
        lambda: SphericalMixtureMLE(0),
        lambda: SphericalMixtureMLE(2, noise_var=0.0),
        lambda: SphericalMixtureMLE(3).fit(torch.ones(2, 2)),
        lambda: SphericalMixtureMLE(1).fit(torch.ones(2)),
    ],
)
def test_wrong_arguments(call):
    with pytest.raises(ValueError, match="at least"):
        call()
