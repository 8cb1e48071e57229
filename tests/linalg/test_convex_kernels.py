"""Convex kernels: gradients, conjugates and constraint sets agree with each other and with closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thalweg.linalg import KERNELS, ConvexKernel, convex_kernel, register_kernel
from thalweg.linalg.convex_kernels import as_matrices

BOUND = {
    **{name: {} for name in ("l1", "l2sq", "l2", "logcosh", "group_l2", "nuclear")},
    "lp": {"p": 1.5},
    "hinge": {"threshold": 0.7},
    "huber": {"threshold": 0.7},
    "smooth": {"threshold": 0.7},
    "topk": {"k": 5},
}
CASES = [*((name, BOUND[name]) for name in sorted(BOUND)), ("lp", {"p": 1.0}), ("lp", {"p": 3.0})]


def numbers(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_kernel_is_covered() -> None:
    assert set(BOUND) <= set(KERNELS)
    assert {name for name in KERNELS if name in BOUND} == set(BOUND)


@pytest.mark.parametrize(("name", "parameters"), CASES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-3, 1.0, 30.0]), inside=st.floats(0.0, 1.0))
def test_fenchel_young(name: str, parameters: dict[str, float], seed: int, scale: float, inside: float) -> None:
    """The gap is never negative, and 0 at the gradient, which lies in the constraint set."""
    kernel = convex_kernel(name, **parameters)
    z, y = numbers(seed, 4, 6, scale=scale), numbers(seed + 1, 4, 6)
    y = y * (inside / max(1.0, kernel.gauge(y).item()))
    size = 1 + kernel.value(z).abs().item() + (z * y).abs().sum().item()
    assert kernel.gap(z, y) >= -1e-12 * size
    step = kernel.grad(z)
    assert kernel.gauge(step) <= 1 + 1e-12
    assert abs(kernel.gap(z, step).item()) <= 1e-12 * (1 + kernel.value(z).abs().item() + (z * step).sum().item())


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_gradient_is_the_derivative(name: str, parameters: dict[str, float]) -> None:
    kernel = convex_kernel(name, **parameters)
    z = numbers(3, 4, 6).requires_grad_()
    (derivative,) = torch.autograd.grad(kernel.value(z), z)
    torch.testing.assert_close(kernel.grad(z.detach()), derivative, rtol=1e-12, atol=1e-12)
    assert not kernel.grad(torch.zeros(4, 6, dtype=torch.float64)).any()


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_conjugate_is_the_largest_value(name: str, parameters: dict[str, float]) -> None:
    """No z gives more than the conjugate; the maximum is found by ascent from 0, or there is none outside the set."""
    kernel = convex_kernel(name, **parameters)
    y = numbers(5, 3, 4)
    scale = kernel.gauge(y).item() or 1.0
    inside, outside = 0.8 * y / scale, 1.2 * y / scale
    z = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([z], max_iter=200, line_search_fn="strong_wolfe")

    def negative() -> Tensor:
        optimizer.zero_grad()
        value = kernel.value(z) - (inside * z).sum()
        value.backward()
        return value

    optimizer.step(negative)
    reached, conjugate = -negative().item(), kernel.conjugate(inside).item()
    assert reached <= conjugate + 1e-12
    assert reached == pytest.approx(conjugate, abs=1e-6 if name != "hinge" else 0.1)
    if kernel.gauge(y) > 0:
        assert kernel.conjugate(outside) == math.inf


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_gauge_is_homogeneous_and_convex(name: str, parameters: dict[str, float]) -> None:
    gauge = convex_kernel(name, **parameters).gauge
    y, w = numbers(6, 3, 4), numbers(7, 3, 4)
    torch.testing.assert_close(gauge(-2.5 * y), 2.5 * gauge(y), rtol=1e-12, atol=0)
    assert gauge(0.3 * y + 0.7 * w) <= 0.3 * gauge(y) + 0.7 * gauge(w) + 1e-12


@pytest.mark.parametrize(("name", "parameters"), CASES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nothing_hides_bad_numbers(name: str, parameters: dict[str, float], bad: float) -> None:
    z = numbers(8, 3, 4)
    z[1, 2] = bad
    assert not convex_kernel(name, **parameters).grad(z)[1, 2].isfinite()


def test_closed_forms() -> None:
    z = torch.tensor([[3.0, -0.2, 0.0, 1.0]], dtype=torch.float64)
    expected = {
        "l1": [1, -1, 0, 1],
        "hinge": [1, 0, 0, 1],
        "huber": [1, -0.2 / 0.7, 0, 1],
        "smooth": [3 / math.hypot(3, 0.7), -0.2 / math.hypot(0.2, 0.7), 0, 1 / math.hypot(1, 0.7)],
        "logcosh": [math.tanh(3), -math.tanh(0.2), 0, math.tanh(1)],
        "lp": [3**0.5, -(0.2**0.5), 0, 1],
    }
    for name, numbers_ in expected.items():
        torch.testing.assert_close(
            convex_kernel(name, **BOUND[name]).grad(z), torch.tensor([numbers_], dtype=torch.float64)
        )


def test_topk_takes_the_first_of_equals_in_each_matrix() -> None:
    stack = torch.tensor([[[1.0, -2.0], [2.0, 2.0]], [[0.0, 0.0], [0.5, 0.0]]])
    step = convex_kernel("topk", k=2).grad(stack)
    assert step.tolist() == [[[0, -1], [1, 0]], [[0, 0], [1, 0]]]
    assert convex_kernel("topk", k=1).grad(torch.tensor([1.0, 3.0, -3.0])).tolist() == [0, 1, 0]


def test_large_numbers_of_float32_keep_their_direction() -> None:
    z = torch.tensor([1e30, -1e-30, 0.0])
    for name in ("l1", "hinge", "huber", "smooth", "logcosh"):
        assert convex_kernel(name, **BOUND[name]).grad(z)[0] == 1


def test_limits_are_other_kernels() -> None:
    z = numbers(9, 20)
    assert torch.equal(convex_kernel("lp", p=1).grad(z), convex_kernel("l1").grad(z))
    torch.testing.assert_close(convex_kernel("lp", p=2).grad(z), convex_kernel("l2sq").grad(z))
    for name in ("huber", "smooth", "hinge"):
        torch.testing.assert_close(convex_kernel(name, threshold=1e-9).grad(z), torch.sign(z), rtol=0, atol=1e-12)


def test_as_matrices() -> None:
    shapes = [tuple(as_matrices(torch.zeros(s)).shape) for s in ((), (3,), (2, 3), (4, 3, 2, 2))]
    assert shapes == [(1, 1), (1, 3), (2, 3), (4, 12)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: convex_kernel("l3"), "unknown kernel 'l3' (choose from group_l2, hinge, huber, l1, "),
        (lambda: convex_kernel("lp"), "kernel 'lp' takes the parameter 'p', not none"),
        (lambda: convex_kernel("l1", p=2), "kernel 'l1' takes no parameter, not p"),
        (lambda: convex_kernel("lp", p=0.5), "Invalid p: 0.5 (must be a number >= 1)"),
        (lambda: convex_kernel("huber", threshold=0), "Invalid threshold: 0 (must be a number > 0)"),
        (lambda: convex_kernel("topk", k=0), "Invalid k: 0 (must be a whole number >= 1)"),
        (lambda: register_kernel("l1", KERNELS["l2sq"]), "kernel 'l1' exists already: choose another name"),
        (lambda: register_kernel("x", KERNELS["l2"]), "kernel 'x': per must be 'element' or 'matrix', not 'tensor'"),
        (
            lambda: register_kernel("x", ConvexKernel(torch.sum, torch.sign, parameter="k")),
            "kernel 'x': parameter must be 'p' or 'threshold', not 'k'",
        ),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(message)
