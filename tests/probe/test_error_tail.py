import itertools
import math

import pytest
import torch
from scipy import integrate, stats

from thalweg.probe import log_gamma_cdf, log_quadratic_cdf


def characteristic_integral(weights, shifts, x):
    """The same probability by Imhof's integral of the characteristic function."""

    def integrand(u):
        d = 1 + (weights * u) ** 2
        angle = 0.5 * (torch.atan(weights * u) + shifts**2 * weights * u / d).sum() - 0.5 * x * u
        size = d.pow(0.25).prod() * torch.exp(0.5 * ((shifts * weights * u) ** 2 / d).sum())
        return (torch.sin(angle) / (u * size)).item()

    return 0.5 - integrate.quad(integrand, 1e-12, 200, limit=2000)[0] / math.pi


@pytest.mark.parametrize(
    ("shape", "x"), [(0.3, 1e-4), (0.735, 0.1), (5, 2.5), (5, 5), (50, 30), (400, 390), (50, 60), (3, 30)]
)
def test_gamma_against_scipy(shape, x):
    assert log_gamma_cdf(shape, x) == pytest.approx(stats.gamma(shape).logcdf(x), rel=1e-8, abs=1e-14)


def test_gamma_far_below_what_a_float_holds():
    shape, x = 50, 1e-3
    assert log_gamma_cdf(shape, x) == pytest.approx(-493.8665, abs=1e-3)
    assert log_gamma_cdf(5000, 10) == pytest.approx(5000 * math.log(10) - 10 - math.lgamma(5001) + 10 / 5001, rel=1e-6)
    assert log_gamma_cdf(2, 0) == -math.inf and log_gamma_cdf(2, math.inf) == 0


@pytest.mark.parametrize("x", [1.0, 3.0, 5.0, 9.0, 14.9, 15.0, 15.1, 25.0, 40.0])
def test_equal_weights_are_noncentral_chi_squared(x):
    """The mean is 15, where both tails meet; the largest error of the saddle point is the percent that the docstring says."""
    found = log_quadratic_cdf(torch.ones(10), torch.full((10,), math.sqrt(0.5)), x)
    assert math.exp(found) == pytest.approx(stats.ncx2(10, 5).cdf(x), rel=0.01)


def test_published_point():
    assert -log_quadratic_cdf(torch.ones(10), torch.full((10,), math.sqrt(0.5)), 5.0) == pytest.approx(
        3.80426, abs=0.01
    )


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0, 1.2, 2.0])
def test_unequal_weights_against_quadrature(share):
    draws = torch.Generator().manual_seed(0)
    weights = torch.rand(12, generator=draws, dtype=torch.float64).pow(3) + 0.01
    shifts = torch.randn(12, generator=draws, dtype=torch.float64)
    x = share * (weights * (1 + shifts**2)).sum().item()
    assert math.exp(log_quadratic_cdf(weights, shifts, x)) == pytest.approx(
        characteristic_integral(weights, shifts, x), rel=0.02
    )


def test_continuous_at_the_mean():
    lam, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, -1.0])
    mean, deviation = 11.0, math.sqrt(2 * (1 + 4 * 3 + 9 * 3))
    found = [log_quadratic_cdf(lam, b, mean + k * 1e-4 * deviation) for k in (-20, -11, -9, 0, 9, 11, 20)]
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert all(step > 0 for step in steps) and max(steps) < 1e-3


def test_far_below_what_a_float_holds():
    found = log_quadratic_cdf(torch.ones(100), torch.zeros(100), 1e-3)
    assert found == pytest.approx(log_gamma_cdf(50.0, 5e-4), rel=1e-3) and found < -500


def test_end_points_and_scale():
    lam, b = torch.tensor([0.5, 2.0]), torch.tensor([1.0, 0.0])
    assert log_quadratic_cdf(lam, b, 0.0) == -math.inf == log_quadratic_cdf(lam, b, -1.0)
    assert log_quadratic_cdf(lam, b, math.inf) == 0 and log_quadratic_cdf(lam, b, 1e4) == pytest.approx(0, abs=1e-12)
    assert log_quadratic_cdf(7 * lam, b, 7 * 0.4) == pytest.approx(log_quadratic_cdf(lam, b, 0.4), rel=1e-6)


@pytest.mark.parametrize(("shape", "x"), [(0.0, 1.0), (1.0, -1.0), (1.0, math.nan)])
def test_what_gamma_refuses(shape, x):
    with pytest.raises(ValueError, match="shape must be positive"):
        log_gamma_cdf(shape, x)


@pytest.mark.parametrize(
    ("weights", "shifts", "message"),
    [([1.0], [1.0, 2.0], "as many"), ([], [], "as many"), ([0.0], [1.0], "positive"), ([1.0], [math.nan], "finite")],
)
def test_what_the_saddle_point_refuses(weights, shifts, message):
    with pytest.raises(ValueError, match=message):
        log_quadratic_cdf(torch.tensor(weights), torch.tensor(shifts), 1.0)
