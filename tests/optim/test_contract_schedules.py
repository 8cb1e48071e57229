"""Learning-rate schedulers work as with any torch optimizer, whatever they write into the groups."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler


def one_cycle(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    cycles = bool({"momentum", "betas"} & set(optimizer.defaults))
    return lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10, cycle_momentum=cycles)


SCHEDULERS = {
    "one_cycle": one_cycle,
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_schedulers_equal_setting_the_groups_by_hand(few, train, same, name: str, tensor: bool) -> None:
    params, twins = few.parameters(torch.float64), few.parameters(torch.float64)
    lr = torch.tensor(0.0625, dtype=torch.float64) if tensor else 0.0625
    optimizer, twin = few(params, lr=lr), few(twins, lr=0.0625)
    scheduler = SCHEDULERS[name](optimizer)
    rates = []
    for step in range(9):
        for group, other in zip(optimizer.param_groups, twin.param_groups, strict=True):
            other.update({key: group[key] for key in ("momentum", "betas") if key in group}, lr=float(group["lr"]))
        rates.append(float(optimizer.param_groups[0]["lr"]))
        train(optimizer, params, step, step + 1)
        train(twin, twins, step, step + 1)
        scheduler.step()
    assert len(set(rates)) > 5
    assert same(params, twins)


def test_one_cycle_moves_the_momentum(few) -> None:
    optimizer = few(few.parameters())
    cycled = {"momentum", "betas"} & set(optimizer.defaults)
    if not cycled:
        pytest.skip("no momentum to cycle")
    scheduler = one_cycle(optimizer)
    key = cycled.pop()
    first = optimizer.param_groups[0][key]
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0][key] != first


def test_a_scheduler_and_its_optimizer_resume_together(few, train, same) -> None:
    params = few.parameters()
    optimizer = few(params)
    scheduler = SCHEDULERS["cosine"](optimizer)
    for step in range(3):
        train(optimizer, params, step, step + 1)
        scheduler.step()
    resumed = [torch.nn.Parameter(p.detach().clone()) for p in params]
    fresh = few(resumed)
    again = SCHEDULERS["cosine"](fresh)
    fresh.load_state_dict(optimizer.state_dict())
    again.load_state_dict(scheduler.state_dict())
    for step in range(3, 6):
        for one, its, schedule in ((optimizer, params, scheduler), (fresh, resumed, again)):
            train(one, its, step, step + 1)
            schedule.step()
    assert same(params, resumed)
