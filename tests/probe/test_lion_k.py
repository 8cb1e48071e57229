"""Lion-K's Lyapunov function along its continuous path, its optimality residual, and the distance from its constraint."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from thalweg.linalg import convex_kernel
from thalweg.probe import constraint_violation, kkt_residual, lyapunov

Q = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
B = torch.tensor([2.0, -1.0], dtype=torch.float64)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def loss(x: Tensor) -> Tensor:
    return 0.5 * x @ Q @ x - B @ x


@pytest.mark.parametrize("name", ["smooth", "logcosh", "l2sq"])
def test_it_falls_along_the_path(name: str) -> None:
    """The path by Runge-Kutta; for "smooth" the start, the end and the limit point have known values."""
    kernel = convex_kernel(name, **({"threshold": 0.1} if name == "smooth" else {}))
    lam, eps, h = 2.0, 0.5, 0.04
    constants = {"alpha": 1.0, "gamma": 1.0, "eps": eps}
    x, mean = vector(0.5, -0.3) * (0.999 if name != "smooth" else 1.0), vector(-0.4, -0.2)

    def slope(x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        gradient = Q @ x - B
        mixed = -mean - eps * (gradient - mean)
        return kernel.grad(mixed) - lam * x, gradient - mean

    seen = []
    for _ in range(750):
        seen.append(lyapunov(x, mean, loss(x), lam, kernel, **constants))
        k1 = slope(x, mean)
        k2 = slope(x + h / 2 * k1[0], mean + h / 2 * k1[1])
        k3 = slope(x + h / 2 * k2[0], mean + h / 2 * k2[1])
        k4 = slope(x + h * k3[0], mean + h * k3[1])
        x = x + h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        mean = mean + h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    assert all(after <= before + 1e-10 for before, after in itertools.pairwise(seen))
    assert kkt_residual([x], [Q @ x - B], lam, kernel).item() == pytest.approx(0, abs=1e-9)
    if name == "smooth":
        assert seen[0] == pytest.approx(-0.956021, abs=1e-6) and seen[-1] == pytest.approx(-1.132370, abs=1e-6)
        torch.testing.assert_close(x, vector(0.4975103, -0.4908598), rtol=0, atol=1e-6)


def test_outside_it_is_infinite_and_a_wrong_sign_is_seen() -> None:
    assert lyapunov(vector(0.6), vector(0.0), 1.0, 2.0) == math.inf
    right, wrong = (lyapunov(vector(0.5), vector(s), 0.0, 2.0) for s in (-3.0, 3.0))
    assert right == 0 and wrong == 6  # at the upper side, with gradients that push up, the bracket vanishes


def test_residual_of_the_box() -> None:
    g = vector(-1.0, 2.0, 0.0, 3.0)
    optimal, inside = vector(0.5, -0.5, 0.3, -0.5), vector(0.5, 0.0, 0.3, -0.5)
    assert kkt_residual([optimal], [g], 2.0).item() == 0
    assert kkt_residual([inside], [g], 2.0).item() == 2.0 / 4
    assert kkt_residual([inside[:1], inside[1:].view(3, 1)], [g[:1], g[1:].view(3, 1)], 2.0).item() == 0.5
    assert kkt_residual([1.0005 * optimal], [g], 2.0).item() == pytest.approx(0, abs=1e-12)
    assert kkt_residual([1.01 * optimal], [g], 2.0).item() == math.inf


@pytest.mark.parametrize(
    ("kernel", "x", "expected"),
    [
        ("l1", vector(1.0, -2.0), 1.5),
        ("l1", vector(0.1, -0.5), 0.0),
        ("l2", vector(3.0, 4.0), 4.5),
        ("nuclear", torch.diag(vector(0.2, 1.0)), 0.5),
        ("group_l2", torch.tensor([[3.0, 4.0], [0.0, 0.1]], dtype=torch.float64), 4.5),
        (convex_kernel("topk", k=1), vector(0.4, 0.4), 0.3),
        ("l2sq", vector(100.0), 0.0),
    ],
)
def test_violation(kernel, x: Tensor, expected: float) -> None:
    assert constraint_violation([x, torch.zeros(2, 2)], 2.0, kernel) == pytest.approx(expected, abs=1e-12)


def test_errors() -> None:
    x = [vector(1.0)]
    for make in (
        lambda: lyapunov(x[0], x[0], 0.0, 0.0),
        lambda: kkt_residual(x, x, 0.0),
        lambda: constraint_violation(x, 0.0),
    ):
        with pytest.raises(ValueError, match="weight_decay must be positive, not 0"):
            make()
    with pytest.raises(ValueError, match=r"eps \* gamma in \[0, 1\]"):
        lyapunov(x[0], x[0], 0.0, 1.0, eps=2.0)
    with pytest.raises(ValueError, match=r"shape \(1,\) has a gradient of shape \(2,\)"):
        kkt_residual(x, [vector(1.0, 2.0)], 1.0)
