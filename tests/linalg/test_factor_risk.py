import math

import pytest
import torch

from thalweg.linalg.factor_risk import (
    FactorProblem,
    excess_risk,
    least_squares_risk,
    pretraining_floor,
    subspace_risk,
)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(d=12, r=2, strength=2.0, seed=0):
    g = draws(seed)
    B = strength * math.sqrt(r / d) * torch.randn(d, r, generator=g, dtype=torch.float64)
    return FactorProblem(B, torch.randn(r, generator=g, dtype=torch.float64), 0.5)


def sample(p, n, seed=1):
    g = draws(seed)
    z = torch.randn(n, p.B.shape[1], generator=g, dtype=torch.float64)
    X = z @ p.B.mT + torch.randn(n, len(p.B), generator=g, dtype=torch.float64)
    return X, z @ p.beta + p.label_noise * torch.randn(n, generator=g, dtype=torch.float64)


def test_best_rule_residual_and_excess_against_simulation():
    p = problem()
    X, y = sample(p, 100_000)
    w = p.best + 0.1 * torch.randn(12, generator=draws(2), dtype=torch.float64)
    assert (y - X @ p.best).square().mean().item() == pytest.approx(p.residual, rel=0.01)
    assert (X @ (w - p.best)).square().mean().item() == pytest.approx(
        excess_risk(w, p.best, p.covariance).item(), rel=0.02
    )
    gradient = X.mT @ (y - X @ p.best) / len(y)
    assert gradient.abs().max() < 0.04
    assert excess_risk(p.best, p.best, p.covariance) == 0


def test_least_squares_against_simulation():
    assert least_squares_risk(1.0, 20, 100) == pytest.approx(20 / 79)
    g = draws()
    X = torch.randn(2000, 100, 20, generator=g, dtype=torch.float64)
    w = torch.linalg.lstsq(X, torch.randn(2000, 100, 1, generator=g, dtype=torch.float64)).solution
    assert w.square().sum(1).mean().item() == pytest.approx(20 / 79, rel=0.03)
    with pytest.raises(ValueError, match="more than 21"):
        least_squares_risk(1.0, 20, 21)


def test_subspace_risk_is_least_over_the_span():
    p = problem()
    assert subspace_risk(p, p.B) == pytest.approx(0, abs=1e-14)  # the best rule lies in the loadings' span
    A = torch.randn(12, 2, generator=draws(4), dtype=torch.float64)
    X, _ = sample(p, 100_000)
    found = A @ torch.linalg.lstsq(X @ A, (X @ p.best).unsqueeze(1)).solution.squeeze(1)
    assert subspace_risk(p, A) == pytest.approx(excess_risk(found, p.best, p.covariance).item(), rel=0.01)
    turned = A @ torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    assert subspace_risk(p, turned) == pytest.approx(subspace_risk(p, A))
    assert subspace_risk(p, torch.cat([A, A.new_zeros(12, 1)], 1)) == pytest.approx(subspace_risk(p, A))


@pytest.mark.parametrize(("d", "r", "strength"), [(12, 2, 2.0), (20, 3, 1.0)])
def test_floor_against_many_fits(d, r, strength):
    p = problem(d, r, strength)
    m, found = 4000, []
    root = torch.linalg.cholesky(p.covariance)
    g = draws(5)
    for _ in range(100):
        X = torch.randn(m, d, generator=g, dtype=torch.float64) @ root.mT
        found.append(subspace_risk(p, torch.linalg.eigh(X.mT @ X).eigenvectors[:, -r:]))
    assert sum(found) / 100 == pytest.approx(pretraining_floor(p, m), rel=0.1)
    assert pretraining_floor(p, 2 * m) == pytest.approx(pretraining_floor(p, m) / 2)
