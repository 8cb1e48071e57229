"""SGDP: what momentum does to the norm of scale-invariant weights and what is left of it, torch's SGD, the public package."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import SGD, SGDP


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def on_the_sphere(cls, steps: int, **settings) -> tuple[list[float], list[float]]:
    """Squared norms of the weights, and of the updates (steps over lr), on -cos(w, w*)."""
    target, p = randoms(1, 5, seed=1), nn.Parameter(nn.functional.normalize(randoms(1, 5), dim=1))
    optimizer = cls([p], lr=0.1, momentum=0.9, **settings)
    norms, moves = [1.0], []
    for _ in range(steps):
        old = p.detach().clone()
        optimizer.zero_grad()
        (-nn.functional.cosine_similarity(p, target, eps=0.0)).sum().backward()
        optimizer.step()
        norms.append(p.detach().square().sum().item())
        moves.append(((old - p.detach()) / 0.1).square().sum().item())
    return norms, moves


def test_growth_of_the_norm_under_momentum_and_without_its_radial_part() -> None:
    r"""|w|^2 grows by lr^2 |p_t|^2 + 2 lr^2 sum_k mu^(t-k) |p_k|^2 under momentum, by lr^2 |step|^2 alone when projected."""
    norms, moves = on_the_sphere(SGD, 300)
    carried = 0.0
    for t, move in enumerate(moves):
        growth = 0.01 * move + 2 * 0.01 * carried
        assert norms[t + 1] == pytest.approx(norms[t] + growth, rel=1e-12)
        carried = 0.9 * (carried + move)
    projected, steps = on_the_sphere(SGDP, 300, eps=0.0)
    for t, move in enumerate(steps):
        assert projected[t + 1] == pytest.approx(projected[t] + 0.01 * move, rel=1e-12)
    assert norms[-1] - 1 > 5 * (projected[-1] - 1)


def test_decay_by_hand() -> None:
    """Projected: wd_ratio / (1 - momentum) of it; else 1 / (1 - momentum); on the old weights."""
    for gradient, factor in (([4.0, -3.0], 0.1 / (1 - 0.75)), ([3.0, 4.0], 1 / (1 - 0.75))):
        p = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
        p.grad = torch.tensor([gradient], dtype=torch.float64)
        SGDP([p], lr=0.1, momentum=0.75, weight_decay=0.2).step()
        expected = (1 - 0.1 * 0.2 * factor) * torch.tensor([[3.0, 4.0]], dtype=torch.float64) - 0.1 * p.grad
        torch.testing.assert_close(p.data, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_on_vectors_it_is_torchs_sgd(train, nesterov: bool) -> None:
    p, q = nn.Parameter(randoms(7)), nn.Parameter(randoms(7))
    train(SGDP([p], lr=0.1, nesterov=nesterov), [p], 0, 10)
    train(torch.optim.SGD([q], lr=0.1, momentum=0.9, nesterov=nesterov), [q], 0, 10)
    torch.testing.assert_close(p.data, q.data, rtol=1e-13, atol=1e-14)


def test_dampening_acts_at_the_first_step_too() -> None:
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = SGDP([p], lr=1.0, momentum=0.5, dampening=0.25)
    for expected in (2 - 0.75, 2 - 0.75 - 1.125):
        p.grad = torch.ones_like(p)
        optimizer.step()
        assert p.item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("nesterov", "dampening"), [(False, 0.0), (False, 0.5), (True, 0.0)])
def test_equals_pytorch_optimizer(train, nesterov: bool, dampening: float) -> None:
    package = pytest.importorskip("pytorch_optimizer")
    start = [randoms(6, 50), randoms(4, 3, 2, 2), randoms(9)]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    same = {
        "lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.1,
        "nesterov": nesterov,
        "dampening": dampening,
        "delta": 1.0,
    }
    train(SGDP(ours, **same), ours, 0, 30)
    train(package.SGDP(theirs, **same), theirs, 0, 30)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_equals_the_authors_package(train) -> None:
    """With Nesterov's momentum; without, the package's projection also changes the momentum, which it stores in place."""
    package = pytest.importorskip("adamp")
    start = [randoms(6, 50), randoms(4, 3, 2, 2), randoms(9)]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    same = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "delta": 1.0}
    train(SGDP(ours, **same), ours, 0, 30)
    train(package.SGDP(theirs, **same), theirs, 0, 30)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_nesterov_needs_momentum_and_no_dampening() -> None:
    for settings in ({"momentum": 0.0}, {"dampening": 0.1}):
        with pytest.raises(ValueError, match=r"^nesterov needs a momentum above 0 and dampening=0$"):
            SGDP([nn.Parameter(torch.ones(2))], nesterov=True, **settings)
