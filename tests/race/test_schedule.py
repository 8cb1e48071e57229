import pytest
import torch

from thalweg.race.schedule import WARM_UP, ScheduledRates, factor


def test_rises_then_falls_to_zero():
    rates = [factor(step / 200, 1 / 200) for step in range(200)]
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[round(WARM_UP * 200) - 1] == pytest.approx(1.0)
    assert all(a >= b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
    assert 0 < rates[-1] < 1e-3
    assert factor(1.0, 0.01) == 0


def test_a_run_of_one_step_trains():
    assert factor(0.0, 1.0) == 1.0


def test_constant():
    assert {factor(p / 10, 0.1, "constant") for p in range(11)} == {1.0}


def test_sets_every_group_and_keeps_tensors():
    a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    tensor = torch.tensor(0.5)
    optimizer = torch.optim.Adam([{"params": [a], "lr": 0.1}, {"params": [b], "lr": tensor}], capturable=False)
    rates = ScheduledRates(optimizer)
    rates.scale(0.5)
    rates.scale(0.1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizer.param_groups[1]["lr"] is tensor
    assert tensor.item() == pytest.approx(0.05)
