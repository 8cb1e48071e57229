"""The shortest vector of a convex hull: closed forms, optimality, and a peer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import min_norm_point


def test_closed_forms() -> None:
    eye = torch.eye(5, dtype=torch.float64)
    found = min_norm_point(eye)
    torch.testing.assert_close(found.point, torch.full((5,), 0.2, dtype=torch.float64))
    torch.testing.assert_close(found.weights, torch.full((5,), 0.2, dtype=torch.float64))
    assert min_norm_point(eye[:1]).weights.tolist() == [1.0]
    assert min_norm_point(torch.cat([eye, -eye])).point.norm() < 1e-12  # the origin lies inside


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    d=st.integers(1, 12),
    shift=st.sampled_from([0.0, 0.3, 3.0]),
    size=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_optimality(seed: int, n: int, d: int, shift: float, size: float) -> None:
    """Weights are those of a convex combination, and no point lies nearer to the origin along it."""
    points = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = size * torch.cat([points + shift, points[: n // 2] + shift])  # with copies: affinely dependent
    point, weights = min_norm_point(points)
    assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(weights @ points, point, rtol=0, atol=1e-12 * size)
    scale = points.square().sum(1).max().item()
    assert (points @ point).min() >= point @ point - 1e-11 * scale


def test_a_support_vector_machine_finds_the_same() -> None:
    svm = pytest.importorskip("sklearn.svm")
    X = torch.randn(80, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.where(X[:, 0] > 0, 1.0, -1.0)
    X[:, 0] += 0.3 * y
    peer = svm.LinearSVC(C=1e6, loss="hinge", fit_intercept=False, tol=1e-10, max_iter=1_000_000).fit(X, y)
    ours = min_norm_point(y[:, None].double() * X).point
    assert ours.norm().item() == pytest.approx(1 / (peer.coef_**2).sum() ** 0.5, rel=1e-3)


@pytest.mark.parametrize("points", [torch.zeros(0, 3), torch.zeros(3), torch.full((2, 2), float("nan"))])
def test_errors(points: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="points must be a finite matrix"):
        min_norm_point(points)


def test_too_few_steps_are_said() -> None:
    with pytest.raises(RuntimeError, match="not found in 1 steps"):
        min_norm_point(torch.eye(4), max_iter=1)
