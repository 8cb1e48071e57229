"""Lion: hand steps, what the sign means for the path, the bound by weight decay, and the public package."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thalweg.optim import Chained, Lion, lion_direction, momentum
from thalweg.optim.sign import sign


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_three_steps_by_hand() -> None:
    """Catches exchanged betas, an early update of the buffer, decay of the new weights, and a sign that isn't 0 at 0."""
    p = nn.Parameter(vector(1, -2, 0.5))
    optimizer = Lion([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.1)
    steps = [
        ((0.3, -0.1, 0), (0.89, -1.88, 0.495), (0.003, -0.001, 0)),
        ((-0.01, 0.2, -1), (0.7811, -1.9612, 0.59005), (0.00287, 0.00101, -0.01)),
        ((-0.5, 0.2, 0.02), (0.873289, -2.041588, 0.6841495), (-0.0021587, 0.0029999, -0.0097)),
    ]
    for grad, weights, buffer in steps:
        p.grad = vector(*grad)
        optimizer.step()
        torch.testing.assert_close(p.data, vector(*weights), rtol=1e-14, atol=1e-16)
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], vector(*buffer), rtol=1e-13, atol=1e-17)
    assert list(optimizer.state[p]) == ["exp_avg"]  # one tensor, and no step count


def path(scale: float, dtype: torch.dtype) -> list[torch.Tensor]:
    p = nn.Parameter(torch.linspace(-1, 1, 50, dtype=dtype))
    optimizer, seen = Lion([p], lr=2.0**-6), [p.detach().clone()]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        p.grad = scale * torch.randn(50, generator=generator, dtype=torch.float64).to(dtype)
        p.grad[:3] = 0
        optimizer.step()
        seen.append(p.detach().clone())
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_have_one_size_whatever_the_gradient(dtype: torch.dtype) -> None:
    small, large = path(1.0, dtype), path(1024.0, dtype)
    assert all(torch.equal(a, b) for a, b in zip(small, large, strict=True))
    for a, b in itertools.pairwise(small):
        size = (b.double() - a.double()).abs()
        rounding = 1e-7 if dtype is torch.float32 else 1e-15
        assert (((size - 2.0**-6).abs() < rounding) | (size == 0)).all()
        assert not size[:3].any()


def test_without_memory_it_is_sign_descent_and_with_one_beta_signed_momentum(train) -> None:
    start = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, q, r, s = (nn.Parameter(start.clone()) for _ in range(4))
    forgetful = Lion([p], lr=0.01, betas=(0.0, 0.0))
    one_beta, signed = Lion([q], lr=0.01, betas=(0.9, 0.9)), Chained([r], momentum(ema=True), lr=0.01)
    for step in range(10):
        train(forgetful, [p], step, step + 1)
        with torch.no_grad():
            s.sub_(0.01 * torch.sign(p.grad))
        assert torch.equal(p, s)
        before, moved = r.detach().clone(), q.detach().clone()
        train(signed, [r], step, step + 1)
        train(one_beta, [q], step, step + 1)
        torch.testing.assert_close(moved - q.data, 0.01 * torch.sign(before - r.data), rtol=0, atol=1e-15)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_equals_lion_pytorch(train, decay: float) -> None:
    package = pytest.importorskip("lion_pytorch")
    start = [torch.randn(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64) for s in ((6, 5), (9,))]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    train(Lion(ours, lr=3e-3, weight_decay=decay), ours, 0, 100)
    train(package.Lion(theirs, lr=3e-3, weight_decay=decay), theirs, 0, 100)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@settings(max_examples=30, deadline=None)
@given(
    decay=st.floats(0.1, 5.0),
    rate=st.floats(0.001, 0.15),
    seed=st.integers(0, 1000),
    size=st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_weight_decay_bounds_the_weights(decay: float, rate: float, seed: int, size: float) -> None:
    """Whatever the gradients: what exceeds 1 / weight_decay shrinks by 1 - lr * weight_decay a step."""
    generator = torch.Generator().manual_seed(seed)
    p = nn.Parameter(10 * torch.randn(20, generator=generator, dtype=torch.float64))
    optimizer = Lion([p], lr=rate, weight_decay=decay)
    largest = max(p.abs().max().item(), 1 / decay)
    for _ in range(30):
        before = max(0.0, p.abs().max().item() - 1 / decay)
        p.grad = size * torch.randn(20, generator=generator, dtype=torch.float64)
        optimizer.step()
        after = max(0.0, p.abs().max().item() - 1 / decay)
        assert after <= (1 - rate * decay) * before + 1e-12
        assert p.abs().max().item() <= largest + 1e-12


def test_an_unused_weight_only_decays_and_a_used_one_moves_on() -> None:
    p = nn.Parameter(vector(1.0, 1.0))
    optimizer = Lion([p], lr=0.1, weight_decay=0.5)
    p.grad = vector(0.0, 1.0)
    optimizer.step()
    p.grad = vector(0.0, 0.0)
    optimizer.step()
    torch.testing.assert_close(p.data, vector(0.95**2, 0.95 * (0.95 - 0.1) - 0.1), rtol=1e-14, atol=0)


def test_sign_hides_nothing() -> None:
    nan, inf = float("nan"), float("inf")
    result = sign(vector(nan, inf, -inf, 0.0, -0.0, 3.0, -1e-300))
    assert result[:3].isnan().all() and result[3:].tolist() == [0.0, 0.0, 1.0, -1.0]


def test_direction_alone() -> None:
    p = nn.Parameter(vector(0.0))
    optimizer = Chained([p], lion_direction(betas=(0.5, 0.5)), lr=1.0)
    p.grad = vector(-7.0)
    optimizer.step()
    assert p.item() == 1.0
