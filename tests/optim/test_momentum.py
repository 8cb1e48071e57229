"""Momentum and SGD: hand steps, torch's SGD, and the two means of "momentum"."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import SGD, Chained, add_decayed_weights, momentum


def start() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in ((5, 4), (7,))]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_equals_torch(train, nesterov: bool, decay: float) -> None:
    ours, theirs = start(), start()
    chain = momentum(momentum=0.8, nesterov=nesterov)
    if decay:
        chain = add_decayed_weights(weight_decay=decay) >> chain
    train(Chained(ours, chain, lr=0.05), ours, 0, 40)
    torchs = torch.optim.SGD(theirs, lr=0.05, momentum=0.8, nesterov=nesterov, weight_decay=decay)
    train(torchs, theirs, 0, 40)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_without_momentum_it_is_gradient_descent() -> None:
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = SGD([p], lr=0.1, momentum=0.0, weight_decay=0.5)
    p.grad = torch.tensor([3.0], dtype=torch.float64)
    optimizer.step()
    assert p.item() == pytest.approx(0.95 * 2.0 - 0.3, rel=1e-15)


@pytest.mark.parametrize(
    ("nesterov", "ema", "expected"),
    [
        (False, False, [1.0, 0.5 * 1 + 2]),
        (True, False, [1 + 0.5, 2 + 0.5 * 2.5]),
        (False, True, [0.5, 0.25 + 1.0]),
        (True, True, [0.5 + 0.25, 1.0 + 0.5 * 1.25]),
    ],
)
def test_two_steps_by_hand(nesterov: bool, ema: bool, expected: list[float]) -> None:
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = Chained([p], momentum(momentum=0.5, nesterov=nesterov, ema=ema), lr=1.0)
    moved = []
    for g in (1.0, 2.0):
        before = p.item()
        p.grad = torch.full_like(p, g)
        optimizer.step()
        moved.append(before - p.item())
    assert moved == pytest.approx(expected, rel=1e-15)
