import math

import pytest
import torch

from thalweg.linalg.marchenko_pastur import marchenko_pastur


@pytest.mark.parametrize("alpha", [0.01, 0.25, 0.5, 0.99, 1.0, 1.25, 4.0, 100.0])
def test_mass_mean_and_mean_inverse(alpha):
    eigenvalues, weights, zero = marchenko_pastur(alpha)
    assert weights.sum().item() == pytest.approx(min(1, alpha), rel=1e-12)
    assert zero == max(0, 1 - alpha)
    assert (weights * eigenvalues).sum().item() == pytest.approx(alpha, rel=1e-12)
    assert (weights * eigenvalues**2).sum().item() == pytest.approx(alpha + alpha**2, rel=1e-12)
    if alpha != 1:
        expected = alpha / (1 - alpha) if alpha < 1 else 1 / (alpha - 1)
        assert (weights / eigenvalues).sum().item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_density_against_adaptive_quadrature(alpha):
    quad = pytest.importorskip("scipy.integrate").quad
    low, high = (math.sqrt(alpha) - 1) ** 2, (math.sqrt(alpha) + 1) ** 2

    def density(x):
        return math.sqrt(max(0.0, (high - x) * (x - low))) / (2 * math.pi * x)

    expected = quad(lambda x: density(x) * math.exp(-x), low, high, limit=200)[0]
    eigenvalues, weights, _ = marchenko_pastur(alpha)
    assert (weights * (-eigenvalues).exp()).sum().item() == pytest.approx(expected, rel=1e-6)


def test_a_random_matrix_has_this_spectrum():
    X = torch.randn(800, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / math.sqrt(800)
    values = torch.linalg.eigvalsh(X @ X.T)
    eigenvalues, weights, zero = marchenko_pastur(0.5)
    for edge in (0.1, 0.5, 1.0, 2.0):
        assert (values < edge).double().mean().item() == pytest.approx(
            zero + weights[eigenvalues < edge].sum().item(), abs=0.01
        )


@pytest.mark.parametrize("arguments", [(0.0,), (-1.0,), (math.inf,), (1.0, 0)])
def test_what_is_refused(arguments):
    with pytest.raises(ValueError, match="must be positive"):
        marchenko_pastur(*arguments)
