"""AdaGrad and AdaGrad-Norm: hand steps, torch's own class, one accumulator over all groups."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from thalweg.optim import Adagrad, AdagradNorm, optimizer_state_bytes


def vector(*numbers: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(numbers, dtype=torch.float64))


@pytest.mark.parametrize("initial", [0.0, 0.01])
def test_equals_torch(train, initial: float) -> None:
    a, b = ([nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((5, 4), (7,))] for _ in range(2))
    train(Adagrad(a, lr=0.1, initial_accumulator_value=initial), a, 0, 50)
    train(torch.optim.Adagrad(b, lr=0.1, initial_accumulator_value=initial), b, 0, 50)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_norm_by_hand() -> None:
    p = vector(0.0)
    optimizer = AdagradNorm([p])
    steps = []
    for _ in range(3):
        before = p.item()
        p.grad = torch.ones_like(p)
        optimizer.step()
        steps.append(before - p.item())
    assert steps == pytest.approx([0.995037, 0.705346, 0.576390], abs=1e-6)
    assert optimizer.param_groups[0]["accumulator"] == pytest.approx(3.01, rel=1e-15)
    assert optimizer_state_bytes(optimizer) == 0


def test_one_sum_over_all_groups_and_later_ones(train) -> None:
    p, q, late = vector(1.0, 2.0), vector(3.0), vector(1.0)
    optimizer = AdagradNorm([{"params": [p]}, {"params": [q], "lr": 0.5}], initial_accumulator_value=0.0)
    p.grad, q.grad = torch.tensor([3.0, 0.0], dtype=torch.float64), torch.full_like(q, 4.0)
    optimizer.step()
    torch.testing.assert_close(p.data, torch.tensor([1 - 3 / 5, 2.0], dtype=torch.float64))
    assert q.item() == pytest.approx(3 - 0.5 * 4 / 5, rel=1e-14)
    assert [g["accumulator"] for g in optimizer.param_groups] == pytest.approx([25.0, 25.0], rel=1e-14)
    optimizer.add_param_group({"params": [late]})
    p.grad = q.grad = None
    late.grad = torch.full_like(late, 12.0)
    optimizer.step()
    assert late.item() == pytest.approx(1 - 12 / 13, rel=1e-14)
    assert [g["accumulator"] for g in optimizer.param_groups] == pytest.approx([169.0] * 3, rel=1e-14)


def test_zero_gradients_from_an_accumulator_of_zero() -> None:
    p = vector(1.0)
    optimizer = AdagradNorm([p], initial_accumulator_value=0.0)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert p.item() == 1.0


def test_nan_is_not_hidden() -> None:
    p, q = vector(1.0), vector(1.0)
    optimizer = AdagradNorm([p, q])
    p.grad, q.grad = torch.full_like(p, float("nan")), torch.ones_like(q)
    optimizer.step()
    assert p.isnan().all() and q.isnan().all()
    fresh = AdagradNorm([r := vector(1.0)], nonfinite="skip")
    r.grad = torch.full_like(r, float("inf"))
    fresh.step()
    assert r.item() == 1.0 and fresh.param_groups[0]["accumulator"] == 0.01


def test_the_number_goes_through_json() -> None:
    p = vector(1.0)
    optimizer = AdagradNorm([p])
    p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    saved = json.loads(json.dumps(optimizer.state_dict()["param_groups"]))
    assert saved[0]["accumulator"] == optimizer.param_groups[0]["accumulator"]


def test_ranges() -> None:
    for cls in (Adagrad, AdagradNorm):
        with pytest.raises(
            ValueError, match=r"Invalid (initial_)?accumulator(_value)?: -1.0 \(must be a number >= 0\)"
        ):
            cls([vector(1.0)], initial_accumulator_value=-1.0)
