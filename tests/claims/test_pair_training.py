import math

import pytest
import torch

from thalweg.claims.engine.pair_training import train_pairs
from thalweg.nn import PairMLP, centred_squared_loss
from thalweg.tasks.group_addition import group_table, split_pairs


def trained(epochs, shares, decays, stop=1.0):
    return train_pairs(
        7,
        shares,
        width=12,
        lr=5e-3,
        weight_decay=decays,
        epochs=epochs,
        generator=torch.Generator().manual_seed(3),
        stop=stop,
        every=10,
    )


def test_is_adam_on_the_module():
    """Each of two trainings side by side against the module, autograd and torch's Adam, from the same draws."""
    shares, decays = [0.4, 0.6], [0.0, 1e-2]
    runs = trained(25, shares, decays)
    draws = torch.Generator().manual_seed(3)
    splits = [split_pairs(group_table(7), share, generator=draws) for share in shares]
    U = (2 * torch.rand(2, 14, 12, generator=draws) - 1) / math.sqrt(14)
    V = (2 * torch.rand(2, 12, 7, generator=draws) - 1) / math.sqrt(12)
    for i, (train, test) in enumerate(splits):
        model = PairMLP(7, 12)
        with torch.no_grad():
            model.first.copy_(U[i])
            model.second.copy_(V[i])
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=decays[i])
        for _ in range(25):
            optimizer.zero_grad()
            centred_squared_loss(model(train[:, :2]), train[:, 2]).backward()
            optimizer.step()
        torch.testing.assert_close(runs[i].first, model.first.detach(), atol=1e-4, rtol=1e-3)
        right = (model(test[:, :2]).argmax(1) == test[:, 2]).double().mean().item()
        assert runs[i].test[-1] == pytest.approx(right) and runs[i].pairs == len(train)
        assert runs[i].epochs == [0, 10, 20, 25]


def test_one_that_ends_leaves_the_others_as_they_were():
    """The first stops at once; the second goes on as if it had been stopped never."""
    both = trained(40, [0.9, 0.5], [1e-3, 1e-3], stop=0.0)
    assert all(run.epochs[-1] <= 40 and run.first.shape == (14, 12) for run in both)
    ended = next(i for i, run in enumerate(both) if run.epochs[-1] < 40)
    alone = trained(40, [0.9, 0.5], [1e-3, 1e-3], stop=1.0)
    shown = len(both[ended].epochs)
    assert alone[ended].test[:shown] == both[ended].test
    assert alone[1 - ended].test[: len(both[1 - ended].test)] == both[1 - ended].test
