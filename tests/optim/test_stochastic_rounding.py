"""bfloat16 parameters rounded at random: right in the mean over elements and over time, and never a half-way number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import SGD, AdamW, Lion
from thalweg.optim.engine.random import round_stochastically

ULP = 2.0**-8  # of bfloat16 just below 1
COUNT = 40_000


def walk(start: float, steps: int, step: float, **options) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    p = nn.Parameter(torch.full((COUNT,), start, dtype=torch.bfloat16))
    optimizer = SGD([p], lr=step, momentum=0.0, stochastic_rounding=True, **options)
    p.grad = torch.ones_like(p)
    for _ in range(steps):
        optimizer.step()
    return p.detach().double(), optimizer


def test_one_step_is_right_in_the_mean() -> None:
    p, _ = walk(1.0, 1, 0.3 * ULP)
    assert set(p.unique().tolist()) == {1.0, 1.0 - ULP}
    share = (p < 1).double().mean().item()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / COUNT) ** 0.5


def test_every_element_is_right_in_time() -> None:
    """Each step draws anew: with the same bits at every step some elements would never move and others at each step."""
    steps = 100
    p, optimizer = walk(1.0, steps, 0.25 * ULP)
    per_step = (0.25 * 0.75) ** 0.5 * ULP
    assert abs(p.mean().item() - (1 - 25 * ULP)) < 4 * per_step * (steps / COUNT) ** 0.5
    assert p.std().item() == pytest.approx(per_step * steps**0.5, rel=0.03)
    assert next(iter(optimizer.state.values()))["step"] == steps  # the random stream goes on after a checkpoint


def test_nearest_rounding_stands_still_where_random_rounding_moves() -> None:
    p = nn.Parameter(torch.ones(10, dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    optimizer = SGD([p], lr=0.1 * ULP, momentum=0.0)
    for _ in range(50):
        optimizer.step()
    assert torch.equal(p, torch.ones_like(p))


def test_two_parameters_and_two_optimizers() -> None:
    a, b = (nn.Parameter(torch.ones(COUNT, dtype=torch.bfloat16)) for _ in range(2))
    for p in (a, b):
        p.grad = torch.ones_like(p)
    SGD([a, b], lr=0.5 * ULP, momentum=0.0, stochastic_rounding=True).step()
    moved = torch.stack([(a < 1).double(), (b < 1).double()])
    assert abs(torch.corrcoef(moved)[0, 1].item()) < 4 / COUNT**0.5
    first, _ = walk(1.0, 1, 0.5 * ULP)
    assert torch.equal(first, a.detach().double())  # the same numbers in every run


@pytest.mark.parametrize("cls", [AdamW, Lion])
def test_other_dtypes_are_left_alone(cls) -> None:
    start = torch.randn(100, generator=torch.Generator().manual_seed(0))
    results = []
    for rounding in (False, True):
        p = nn.Parameter(start.clone())
        p.grad = start.sin()
        cls([p], lr=1e-3, stochastic_rounding=rounding).step()
        results.append(p.detach())
    assert torch.equal(*results)


def test_signs_limits_and_special_numbers() -> None:
    x = torch.tensor([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan")])
    bits = torch.full((7,), 0xFFFF, dtype=torch.int64)
    result = round_stochastically(x, torch.bfloat16, bits).float()
    assert torch.equal(result[:6], x[:6]) and result[6].isnan()  # what bfloat16 can say is never changed
    down = round_stochastically(torch.tensor([-1.001]), torch.bfloat16, torch.tensor([0]))
    up = round_stochastically(torch.tensor([-1.001]), torch.bfloat16, torch.tensor([0xFFFF]))
    assert down.item() == -1.0 and up.item() == -1.0078125


def test_only_bfloat16() -> None:
    with pytest.raises(ValueError, match=r"^stochastic rounding is for bfloat16 parameters, not torch.float16$"):
        round_stochastically(torch.ones(1), torch.float16, torch.zeros(1, dtype=torch.int64))
