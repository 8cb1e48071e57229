"""AdamW: its equations, and torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import AdamW, Chained, adam_direction, add_decayed_weights
from thalweg.optim.adamw import bias_corrections


def start() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in ((5, 4), (7,))]


@pytest.mark.parametrize("settings", [{}, {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}])
def test_equals_torch(train, settings) -> None:
    ours, theirs = start(), start()
    train(AdamW(ours, lr=0.01, **settings), ours, 0, 50)
    train(torch.optim.AdamW(theirs, lr=0.01, **settings), theirs, 0, 50)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_coupled_decay_equals_torch_adam(train) -> None:
    ours, theirs = start(), start()
    train(Chained(ours, add_decayed_weights(weight_decay=0.1) >> adam_direction(), lr=0.01), ours, 0, 50)
    train(torch.optim.Adam(theirs, lr=0.01, weight_decay=0.1), theirs, 0, 50)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_first_step_is_the_sign_of_the_gradient() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    p.grad = torch.tensor([1e-3, -5.0, 0.0], dtype=torch.float64)
    AdamW([p], lr=0.1, eps=1e-16, weight_decay=0.0).step()
    torch.testing.assert_close(p.data, torch.tensor([0.9, 2.1, 3.0], dtype=torch.float64), rtol=1e-12, atol=0)


def test_two_steps_by_hand() -> None:
    p = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
    optimizer = AdamW([p], lr=1.0, betas=(0.5, 0.75), eps=0.5, weight_decay=0.0)
    for g in (2.0, -4.0):
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
    # m: 1, -1.5; v: 1, 4.75; after correction: 2 and 4, -2 and 4.75 / 0.4375
    assert p.item() == pytest.approx(-2 / 2.5 + 2 / ((4.75 / 0.4375) ** 0.5 + 0.5), rel=1e-14)


def test_bias_corrections() -> None:
    assert bias_corrections(1, (0.9, 0.99)) == pytest.approx({"correction1": 10.0, "correction2": 10.0})
    assert bias_corrections(3, (0.0, 0.0)) == {"correction1": 1.0, "correction2": 1.0}
    assert bias_corrections(1, (0.9, 0.99), bias_correction=False) == {"correction1": 1.0, "correction2": 1.0}
