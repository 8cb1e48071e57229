"""Natural GaLore: the history's length, GaLore without one, its equations on both sides, Chained alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import Chained, GaLore, NaturalGaLore, natural_gradient

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize(("keep", "lengths"), [(False, [1, 2, 3, 3, 3, 1, 2]), (True, [1, 2, 3, 3, 3, 3, 3])])
def test_length_of_the_history(keep: bool, lengths: list[int]) -> None:
    p = nn.Parameter(randoms(6, 4))
    optimizer = NaturalGaLore([p], rank=2, history=3, update_every=5, keep_history=keep)
    found = []
    for step in range(7):
        p.grad = randoms(6, 4, seed=step)
        optimizer.step()
        found.append(int((optimizer.state[p]["gradients"] != 0).any(-1).sum()))
    assert found == lengths and optimizer.state[p]["gradients"].shape == (3, 12)


def test_without_history_it_is_galore() -> None:
    p, q = nn.Parameter(randoms(6, 4)), nn.Parameter(randoms(6, 4))
    ours = NaturalGaLore([p], rank=2, history=0, damping=1e-3, eps=1e-3, update_every=3)
    galore = GaLore([q], rank=2, eps=1e-6, update_every=3)
    for step in range(7):
        p.grad, q.grad = (randoms(6, 4, seed=step) for _ in range(2))
        ours.step()
        galore.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)


def test_equations_from_both_sides() -> None:
    p = nn.Parameter(randoms(6, 5))
    w = p.detach().clone()
    optimizer = NaturalGaLore([p], lr=0.1, rank=2, history=2, damping=0.5, scale=0.5, sides="both")
    m = v = torch.zeros(2, 2, dtype=F64)
    past: list[torch.Tensor] = []
    for step in range(4):
        p.grad = randoms(6, 5, seed=10 + step)
        optimizer.step()
        a, b = optimizer.state[p]["left_basis"], optimizer.state[p]["basis"]
        if step == 0:
            u, _, vh = torch.linalg.svd(p.grad, full_matrices=False)
            torch.testing.assert_close(a @ a.T, u[:, :2] @ u[:, :2].T)
            torch.testing.assert_close(b @ b.T, vh[:2].T @ vh[:2])
        g = (a.T @ p.grad @ b).flatten()
        past = [*past, g][-2:]
        fisher = 0.5 * torch.eye(4, dtype=F64) + sum(torch.outer(x, x) for x in past)
        natural = torch.linalg.solve(fisher, g).view(2, 2)
        m, v = 0.9 * m + 0.1 * natural, 0.999 * v + 0.001 * natural.square()
        corrected = (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
        w = w - 0.1 * 0.5 * corrected * a @ (m / (v.sqrt() + 1e-6)) @ b.T
        torch.testing.assert_close(p.detach(), w, rtol=1e-9, atol=1e-9)
    assert optimizer.state[p]["exp_avg"].shape == (2, 2)


def test_alone_in_a_chain() -> None:
    p = nn.Parameter(torch.zeros(1, 2, dtype=F64))
    p.grad = torch.tensor([[3.0, 4.0]], dtype=F64)
    Chained([p], natural_gradient(), lr=1.0).step()
    torch.testing.assert_close(p.detach(), -p.grad / 25.001, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"damping": 0.0}, "Invalid damping: 0.0 (must be a number > 0)"),
        ({"history": -1}, "Invalid history: -1 (must be a whole number >= 0)"),
        ({"rank": 0}, "Invalid rank: 0 (must be a whole number >= 1)"),
        ({"sides": "left"}, "unknown sides 'left' (choose from std, both)"),
    ],
)
def test_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        NaturalGaLore([nn.Parameter(torch.ones(2, 2))], **settings)
    assert str(caught.value) == message
