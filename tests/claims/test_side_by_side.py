"""Networks side by side train as each would alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.claims.engine.side_by_side import SideBySide
from thalweg.optim import AdamW


def start() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draws = torch.Generator().manual_seed(0)
    return [
        (torch.randn(m, n, generator=draws, dtype=torch.float64), torch.randn(n, generator=draws, dtype=torch.float64))
        for m, n in ((5, 4), (4, 4), (4, 3))
    ]


X, Y = torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.arange(12) % 3


def alone(lr: float, steps: int, clip: float = math.inf) -> list[torch.Tensor]:
    linear = [nn.Linear(*weight.shape).double() for weight, _ in start()]
    for layer, (weight, bias) in zip(linear, start(), strict=True):
        layer.weight.data, layer.bias.data = weight.T.contiguous(), bias
    net = nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])
    optimizer = AdamW(net.parameters(), lr=lr, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(X), Y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
    return [net(X).detach(), F.cross_entropy(net(X), Y).detach()]


@pytest.mark.parametrize("clips", [None, (0.1, math.inf, 1e-3)])
def test_as_alone(clips) -> None:
    rates = (0.01, 0.1, 0.03)
    nets = SideBySide(start(), len(rates))
    groups = [{"params": [nets.param(place)], "lr": lr} for place, lr in enumerate(rates)]
    optimizer = AdamW(groups, weight_decay=0.1)
    for _ in range(5):
        nets.gradients(X, Y)
        if clips is not None:
            nets.clip(torch.tensor(clips, dtype=torch.float64))
        optimizer.step()
    for place, lr in enumerate(rates):
        outputs, loss = alone(lr, 5, clips[place] if clips else math.inf)
        torch.testing.assert_close(nets.logits(X)[place], outputs, rtol=1e-5, atol=1e-6)  # torch's clip adds 1e-6
        torch.testing.assert_close(nets.losses(X, Y)[place], loss, rtol=1e-5, atol=1e-6)


def test_one_that_breaks_down_leaves_the_others() -> None:
    nets = SideBySide(start(), 3)
    params = [nets.param(place) for place in range(3)]
    with torch.no_grad():
        params[1].fill_(float("nan"))
    nets.gradients(X, Y)
    nets.clip(torch.full((3,), 0.5, dtype=torch.float64))
    assert params[1].grad.isnan().any() and torch.equal(params[0].grad, params[2].grad)
    assert params[0].grad.norm() == pytest.approx(0.5)
    accuracies, losses = nets.measured(X, Y)
    assert accuracies[1] == 0.0 and losses[1] == math.inf and losses[0] == losses[2] < math.inf
    assert accuracies[0] == (nets.logits(X)[0].argmax(1) == Y).double().mean()
