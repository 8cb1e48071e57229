"""Every rule on another device: what it keeps lies there, and it does what it does on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thalweg.testing.pretended import Pretended, pretending

STEPS = 4


def trained(rule, device):
    """Weights after some steps, and the optimizer."""
    torch.manual_seed(0)
    params = [nn.Parameter(p.detach().to(device)) for p in rule.parameters()]
    optimizer = rule(params, compile=False)
    draws = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draws).to(device)
        optimizer.step()
    return [p.detach().cpu() for p in params], optimizer


def test_it_does_the_same_elsewhere(rule):
    expected, _ = trained(rule, "cpu")
    with pretending() as device:
        found, optimizer = trained(rule, device)
    kept = [each for state in optimizer.state.values() for each in state.values() if isinstance(each, Tensor)]
    assert all(isinstance(each, Pretended) for each in kept if each.dim())
    for a, b in zip(expected, found, strict=True):  # accelerators orthogonalize in bfloat16
        assert (a - b).abs().max() <= 5e-3 * a.abs().max()
