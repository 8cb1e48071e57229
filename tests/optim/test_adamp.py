"""AdamP: a hand step, AdamW where nothing is projected, and the public package.

What it shares with SGDP, norms over 300 steps among it, is in test_radial_projection.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import AdamP


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def step(gradient: torch.Tensor, optimizer_class=AdamP, **settings) -> torch.Tensor:
    p = nn.Parameter(tensor([3, 4], [0, 2]))
    p.grad = gradient
    optimizer_class([p], lr=0.1, weight_decay=0.1, **settings).step()
    return p.detach()


def test_one_step_by_hand() -> None:
    """Both rows pass: the first row's update (0.1, -0.1) loses its radial part, and the decay is a tenth."""
    expected = tensor([2.885000000368, 4.079999999824], [-0.099999999, 1.998])
    torch.testing.assert_close(step(tensor([4, -3], [1, 0])), expected, rtol=1e-14, atol=1e-16)


def test_one_row_that_fails_spoils_all() -> None:
    """Neither view passes: AdamW's step, with the whole decay."""
    gradient = tensor([4, -3], [1, 1])
    torch.testing.assert_close(step(gradient), step(gradient, torch.optim.AdamW), rtol=1e-14, atol=0)


def test_nesterov_by_hand() -> None:
    p, g = nn.Parameter(tensor([1.0, 2.0])), tensor([2.0, -1.0])
    optimizer = AdamP([p], lr=0.1, delta=0.0, nesterov=True)
    for _ in range(2):
        p.grad = g
        optimizer.step()
    # Of a constant gradient the corrected means are g and |g|; one step ahead the first is larger by 1 + b1^t (1 - b1) / (1 - b1^t).
    total = sum(1 + 0.9**t * 0.1 / (1 - 0.9**t) for t in (1, 2))
    torch.testing.assert_close(p.data, tensor([1.0, 2.0]) - 0.1 * total * g.sign(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_pytorch_optimizer(train, nesterov: bool, decay: float) -> None:
    """It adds eps before it corrects the second moment, which makes it larger at first: with one that is next to nothing the two
    are one."""
    package = pytest.importorskip("pytorch_optimizer")
    start = [
        torch.randn(s, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for s in ((6, 50), (4, 3, 2, 2), (9,))
    ]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    same = {"lr": 0.01, "weight_decay": decay, "nesterov": nesterov, "delta": 1.0, "eps": 1e-15}
    train(AdamP(ours, **same), ours, 0, 30)
    train(package.AdamP(theirs, **same), theirs, 0, 30)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_equals_the_authors_package(train, nesterov: bool, delta: float) -> None:
    """It adds eps to the norms that it divides by, so the two part by about as much."""
    package = pytest.importorskip("adamp")
    start = [
        torch.randn(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for s in ((6, 50), (4, 3, 2, 2), (9,))
    ]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    same = {"lr": 0.01, "weight_decay": 0.1, "nesterov": nesterov, "delta": delta}
    train(AdamP(ours, **same), ours, 0, 30)
    train(package.AdamP(theirs, **same), theirs, 0, 30)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
