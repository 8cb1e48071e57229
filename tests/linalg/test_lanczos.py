import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import haar, lanczos


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def matrix_with(eigenvalues, seed=0):
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    Q = haar(len(values), len(values), generator=seeded(seed), dtype=torch.float64)
    return Q * values @ Q.T


def random_start(size, seed=1, dtype=torch.float64):
    return torch.randn(size, generator=seeded(seed), dtype=dtype)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(-5, 5), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_all_steps_give_all_eigenvalues_with_multiplicity(values, seed):
    A = matrix_with(values, seed)
    ritz = lanczos(lambda v: A @ v, random_start(len(values)), len(values), generator=seeded())
    expected = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    torch.testing.assert_close(ritz.values, expected, atol=1e-8, rtol=0)


def test_few_steps_find_the_outer_values_of_a_large_matrix():
    spectrum = [10.0, 8.0, 6.0, -4.0] + torch.linspace(-0.1, 0.1, 396).tolist()
    A = matrix_with(spectrum)
    ritz = lanczos(lambda v: A @ v, random_start(400), 40, generator=seeded())
    torch.testing.assert_close(ritz.values[:3], torch.tensor([10.0, 8.0, 6.0], dtype=torch.float64))
    assert ritz.values[-1].item() == pytest.approx(-4.0)
    assert (ritz.values > 5).sum() == 3  # no copies of converged values, as there are without re-orthogonalization


def test_residuals_bound_the_error():
    A = matrix_with(torch.linspace(-1, 2, 60).tolist())
    exact = torch.linalg.eigvalsh(A)
    for steps in (5, 15, 30):
        ritz = lanczos(lambda v: A @ v, random_start(60), steps)
        distance = (ritz.values[:, None] - exact).abs().amin(1)
        assert (distance <= ritz.residuals + 1e-10).all()


def test_vectors_are_orthonormal_and_their_residuals_are_as_reported():
    A = matrix_with(torch.linspace(-1, 2, 60).tolist())
    values, residuals, weights, vectors = lanczos(lambda v: A @ v, random_start(60), 20, vectors=True)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(20, dtype=torch.float64))
    torch.testing.assert_close((vectors @ A - values[:, None] * vectors).norm(dim=1), residuals, atol=1e-10, rtol=1e-6)
    start = random_start(60)
    torch.testing.assert_close(weights, (vectors @ start / start.norm()).square())


def test_weights_are_a_gauss_quadrature_of_the_start_vectors_spectrum():
    A = matrix_with(torch.linspace(-1, 2, 50).tolist())
    start = random_start(50)
    start /= start.norm()
    ritz = lanczos(lambda v: A @ v, start, 6)
    for power in range(12):  # exact up to degree 2 * 6 - 1
        moment = start @ torch.linalg.matrix_power(A, power) @ start
        torch.testing.assert_close((ritz.weights * ritz.values**power).sum(), moment)


def test_it_stops_as_soon_as_the_top_values_are_found():
    A = matrix_with([10.0, 8.0] + torch.linspace(-0.1, 0.1, 198).tolist())
    calls = []
    ritz = lanczos(lambda v: calls.append(1) or A @ v, random_start(200), 150, top=2, tol=1e-8)
    assert len(calls) < 30
    torch.testing.assert_close(ritz.values[:2], torch.tensor([10.0, 8.0], dtype=torch.float64))


def test_float32_is_enough_for_the_outer_values():
    A = matrix_with([10.0, 8.0, 6.0, -4.0] + torch.linspace(-0.1, 0.1, 196).tolist()).float()
    ritz = lanczos(lambda v: A @ v, random_start(200, dtype=torch.float32), 80)
    torch.testing.assert_close(ritz.values[:3], torch.tensor([10.0, 8.0, 6.0], dtype=torch.float64), rtol=1e-5, atol=0)
    assert (ritz.values > 5).sum() == 3


@pytest.mark.parametrize(
    ("start", "steps", "message"),
    [
        (torch.zeros(3), 2, "start must be"),
        (torch.full((3,), float("nan")), 2, "start must be"),
        (torch.ones(3, 1), 2, "start must be"),
        (torch.ones(3), 0, "steps must be at least 1"),
    ],
)
def test_bad_arguments(start, steps, message):
    with pytest.raises(ValueError, match=message):
        lanczos(lambda v: v, start, steps)
