import pytest
import torch

from thalweg.solve import FactorModelMLE


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=draws(seed), dtype=torch.float64)


def log_likelihood(B, S, noise_var):
    """Per sample, without constants."""
    C = B @ B.mT + noise_var * torch.eye(len(S), dtype=S.dtype)
    return -(torch.logdet(C) + (torch.linalg.inv(C) * S).sum()) / 2


def test_by_hand():
    fit = FactorModelMLE(1).fit_covariance(torch.diag(torch.tensor([5.0, 1.0])))
    assert torch.allclose(fit.components_.abs(), torch.tensor([[2.0], [0.0]]))
    assert torch.allclose(fit.map().abs(), torch.tensor([[0.4], [0.0]]))
    assert torch.allclose(fit.transform(torch.tensor([[5.0, 3.0]])).abs(), torch.tensor([[2.0]]))


@pytest.mark.parametrize("noise_var", [1.0, 0.3])
def test_no_loadings_are_likelier(noise_var):
    X = randn(500, 2) @ randn(2, 6, seed=1) * 2 + noise_var**0.5 * randn(500, 6, seed=2)
    S = X.mT @ X / 500
    B = FactorModelMLE(2, noise_var).fit(X).components_.requires_grad_()
    best = log_likelihood(B, S, noise_var)
    (slope,) = torch.autograd.grad(best, B)
    assert slope.abs().max() < 1e-10
    for seed in range(20):
        for size in (0.01, 1.0):
            assert log_likelihood(B + size * randn(6, 2, seed=3 + seed), S, noise_var) < best
    assert torch.allclose(log_likelihood(B @ torch.linalg.qr(randn(2, 2)).Q, S, noise_var), best)  # known up to that


def test_features_are_the_expected_factors():
    fit = FactorModelMLE(2, 0.5).fit(randn(100, 5) * torch.arange(1, 6))
    B = fit.components_
    woodbury = torch.linalg.solve(B @ B.mT + 0.5 * torch.eye(5, dtype=B.dtype), B)
    assert torch.allclose(fit.map(), woodbury, atol=1e-10)
    assert (B.norm(dim=0).diff() < 0).all()  # strongest first


def test_directions_below_the_noise_are_dropped():
    fit = FactorModelMLE(2).fit_covariance(torch.diag(torch.tensor([4.0, 0.9, 0.5])))
    assert fit.components_[:, 1].abs().max() == 0 and torch.equal(fit.map()[:, 1], torch.zeros(3))
    few = FactorModelMLE(3).fit(10 * randn(2, 5))  # fewer samples than factors
    assert (few.components_.norm(dim=0) > 0).sum() == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FactorModelMLE(0), "at least 1"),
        (lambda: FactorModelMLE(1, 0.0), "noise_var positive"),
        (lambda: FactorModelMLE(3).fit(torch.ones(5, 3)), "below the 3 features"),
        (lambda: FactorModelMLE(1).fit(torch.ones(0, 3)), "at least one row"),
        (lambda: FactorModelMLE(1).fit(torch.ones(5, 3)).transform(torch.ones(5, 4)), "3 features, not 4"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
