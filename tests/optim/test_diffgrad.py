"""diffGrad: hand steps, what friction does to Adam's step, its scale, and the public package."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.optim import AdamW, DiffGrad


def vector(*numbers: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(numbers, dtype=torch.float64))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_three_steps_by_hand() -> None:
    p = vector(1.0)
    optimizer = DiffGrad([p], lr=0.1)
    seen, friction = [], []
    for g in (1.0, 1.0, -1.0):
        p.grad = torch.full_like(p, g)
        friction.append(optimizer.friction_stats()[0]["mean"])
        optimizer.step()
        seen.append(p.item())
    assert friction == pytest.approx([0.7310585786, 0.5, 0.8807970780], abs=1e-10)
    assert seen == pytest.approx([0.9268941652550943, 0.8768941764382282, 0.8538179472451828], rel=1e-14)


def test_the_gradient_is_copied() -> None:
    """If the previous gradient shared memory with ``p.grad``, the friction would be 1/2 for ever."""
    p = vector(1.0)
    optimizer = DiffGrad([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    p.grad.fill_(3.0)
    assert optimizer.friction_stats()[0]["mean"] == pytest.approx(0.8807970780, abs=1e-10)
    optimizer.step()
    assert optimizer.state[p]["previous_grad"].item() == 3.0
    p.grad.fill_(5.0)
    assert optimizer.state[p]["previous_grad"].item() == 3.0


@pytest.mark.parametrize("corrected", [False, True])
def test_a_steady_gradient_halves_adams_step(corrected) -> None:
    p, q = vector(1.0), vector(1.0)
    ours = DiffGrad([p], lr=0.1, eps=1e-3, eps_after_correction=corrected)
    adam = AdamW([q], lr=0.1, eps=1e-3, weight_decay=0.0)
    for step in range(1, 5):
        before, other = p.item(), q.item()
        p.grad, q.grad = torch.full_like(p, 0.5), torch.full_like(q, 0.5)
        if not corrected:  # as published eps is corrected with the root
            adam.param_groups[0]["eps"] = 1e-3 / (1 - 0.999**step) ** 0.5
        ours.step()
        adam.step()
        share = (before - p.item()) / (other - q.item())
        assert share == pytest.approx(sigmoid(0.5) if step == 1 else 0.5, rel=1e-12)


def test_friction_lies_between_one_half_and_one(train) -> None:
    p, q = vector(*torch.linspace(-2, 2, 40).tolist()), vector(*torch.linspace(-2, 2, 40).tolist())
    ours, adam = DiffGrad([p], lr=0.01, eps=0.0), AdamW([q], lr=0.01, eps=0.0, weight_decay=0.0)
    for step in range(10):
        before, other = p.detach().clone(), q.detach().clone()
        train(ours, [p], step, step + 1, 10.0)
        train(adam, [q], step, step + 1, 10.0)
        share = (p - before) / (q - other)
        assert (share > 0.5 - 1e-9).all() and (share < 1 + 1e-9).all()
    for value in (0.0, 1e3):  # a change too large for the sigmoid: Adam's whole step
        p.grad = torch.full_like(p, value)
        stats = ours.friction_stats()[0]
    assert stats["mean"] == stats["min"] == stats["max"] == 1.0


def test_the_scale_of_the_loss_matters(train) -> None:
    """Small gradients: Adam at half the rate. Adam itself takes the same path at every scale."""
    start = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()
    tiny, half, small, large = (vector(*start) for _ in range(4))
    train(DiffGrad([tiny], lr=0.01, eps=0.0), [tiny], 0, 20, 1e-6)
    train(AdamW([half], lr=0.005, eps=0.0, weight_decay=0.0), [half], 0, 20)
    torch.testing.assert_close(tiny.data, half.data, rtol=1e-5, atol=1e-7)
    train(AdamW([small], lr=0.005, eps=0.0, weight_decay=0.0), [small], 0, 20, 2.0**-20)
    assert torch.equal(small, half)
    train(DiffGrad([large], lr=0.01, eps=0.0), [large], 0, 20)
    assert (large - tiny).abs().max() > 1e-3
    repaired = vector(*start)
    train(DiffGrad([repaired], lr=0.01, eps=0.0, friction_scale=2.0**20), [repaired], 0, 20, 2.0**-20)
    torch.testing.assert_close(repaired, large, rtol=1e-12, atol=0)


def test_coupled_decay_is_part_of_the_remembered_gradient() -> None:
    p = vector(2.0)
    optimizer = DiffGrad([p], lr=0.1, weight_decay=0.5, decoupled=False)
    p.grad = torch.full_like(p, 0.25)
    assert optimizer.friction_stats()[0]["mean"] == pytest.approx(sigmoid(1.25), rel=1e-14)
    optimizer.step()
    assert optimizer.state[p]["previous_grad"].item() == 1.25
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_statistics_by_group_and_maximize() -> None:
    p, q, r = vector(1.0, 1.0), vector(1.0), vector(1.0)
    optimizer = DiffGrad([{"params": [p]}, {"params": [q, r], "maximize": True}], lr=0.1)
    assert optimizer.friction_stats() == [{}, {}]
    p.grad, q.grad = torch.tensor([0.0, 2.0], dtype=torch.float64), torch.ones_like(q)
    first, second = optimizer.friction_stats()
    assert first == pytest.approx({"mean": (0.5 + sigmoid(2)) / 2, "min": 0.5, "max": sigmoid(2)})
    assert second["mean"] == pytest.approx(sigmoid(1))
    optimizer.step()
    assert optimizer.friction_stats()[1]["mean"] == 0.5  # the remembered gradient has the sign of the step
    assert not optimizer.state[r]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"eps_after_correction": False}, {}),
        ({"weight_decay": 0.1}, {"weight_decay": 0.1}),
        ({"weight_decay": 0.1, "decoupled": False}, {"weight_decay": 0.1, "weight_decouple": False}),
    ],
    ids=["plain", "decoupled decay", "coupled decay"],
)
def test_equals_pytorch_optimizer(train, ours, theirs) -> None:
    """The package puts eps where the paper does up to a term in eps, so eps is kept small."""
    package = pytest.importorskip("pytorch_optimizer")
    start = [torch.randn(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64) for s in ((6, 5), (9,))]
    a, b = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    train(DiffGrad(a, lr=1e-2, eps=1e-14, **ours), a, 0, 50)
    train(package.DiffGrad(b, lr=1e-2, eps=1e-14, **theirs), b, 0, 50)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
