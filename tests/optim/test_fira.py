"""Fira: hand steps, its parts inside and outside the subspace, the limiter, full rank."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import Fira, GaLore

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def first_step(cls: type, g: torch.Tensor, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """The step over -lr, and the basis."""
    p = nn.Parameter(torch.zeros_like(g))
    p.grad = g
    optimizer = cls([p], lr=1.0, **settings)
    optimizer.step()
    return -p.detach(), optimizer.state[p]["basis"]


@pytest.mark.parametrize(("scaling", "second"), [("column", 0.0), ("matrix", 1 / 3)])
def test_one_step_by_hand(scaling: str, second: float) -> None:
    g = torch.diag(torch.tensor([3.0, 1.0], dtype=F64))
    step, _ = first_step(Fira, g, rank=1, eps=1e-12, scaling=scaling)
    torch.testing.assert_close(step, torch.diag(torch.tensor([1.0, second], dtype=F64)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_inside_it_is_galore_and_outside_parallel_to_the_residual(shape: tuple[int, int]) -> None:
    g = randoms(*shape)
    (step, basis), (other, _) = (first_step(cls, g, rank=2, scale=1.0) for cls in (Fira, GaLore))
    if shape == (4, 6):
        step, other, g = step.T, other.T, g.T
    inside = basis @ basis.T
    torch.testing.assert_close(step @ inside, other, rtol=1e-9, atol=1e-9)
    outside, residual = step - step @ inside, g - g @ inside
    cosines = torch.nn.functional.cosine_similarity(outside, residual, dim=1)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_at_full_rank_it_is_galore() -> None:
    ends = []
    for cls in (Fira, GaLore):
        p = nn.Parameter(randoms(6, 4))
        optimizer = cls([p], lr=0.1, rank=9, scale=1.0, update_every=2)
        for step in range(5):
            p.grad = randoms(6, 4, seed=step)
            optimizer.step()
        ends.append(p.detach())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


def test_the_limiter_holds_jumps() -> None:
    norms = {}
    for limit in (1.01, None):
        p = nn.Parameter(torch.zeros(6, 4, dtype=F64))
        optimizer = Fira([p], lr=1.0, rank=1, norm_growth_limit=limit)
        seen = []
        for step in range(4):
            p.grad = randoms(6, 4, seed=step) * (100 if step == 2 else 1)
            optimizer.step()
            seen.append(optimizer.state[p]["residual_norm"].item())
        norms[limit] = seen
    assert any(b > 2 * a for a, b in zip(norms[None], norms[None][1:], strict=False))
    assert all(b <= 1.01 * a * (1 + 1e-9) for a, b in zip(norms[1.01], norms[1.01][1:], strict=False))


def test_the_packages_residual_leaks() -> None:
    g = randoms(6, 4)
    plain, basis = first_step(Fira, g, rank=2, scale=0.25)
    leaking, _ = first_step(Fira, g, rank=2, scale=0.25, reference_residual=True)
    extra = (leaking - plain) @ basis @ basis.T
    torch.testing.assert_close(extra, leaking - plain)
    assert extra.norm() > 0.1


@pytest.mark.parametrize("scale", [0.25, 1.0])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 12)])
def test_equals_pytorch_optimizer_over_refreshes(shape: tuple[int, int], scale: float) -> None:
    """It takes the residual as the paper's package does, adds 1e-8 to norms where ours only bounds them, takes signs of singular
    vectors as torch gives them, and refreshes on steps 1, T, 2T, ..., not 1, T+1, 2T+1, ...: it is told when."""
    peer = pytest.importorskip("pytorch_optimizer").Fira
    ours, theirs = (nn.Parameter(randoms(*shape).float()) for _ in range(2))
    settings = {"lr": 1e-2, "rank": 4, "scale": scale, "update_every": 6, "decay": "after", "weight_decay": 0.1}
    optimizer = Fira([ours], reference_residual=True, align_signs=False, **settings)
    group = {"params": [theirs], "rank": 4, "update_proj_gap": 6, "scale": scale, "projection_type": "std"}
    other = peer([group], lr=1e-2, weight_decay=0.1)
    for step in range(20):
        ours.grad, theirs.grad = (randoms(*shape, seed=step).float() for _ in range(2))
        if step:
            other.state[theirs]["projector"].update_proj_gap = 1 if step % 6 == 0 else 10**9
        optimizer.step()
        other.step()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("align_signs", [True, False])
@pytest.mark.parametrize("scale", [0.25, 1.0])
def test_equations_over_refreshes(align_signs: bool, scale: float) -> None:
    p = nn.Parameter(randoms(6, 4))
    w = p.detach().clone()
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "rank": 2, "update_every": 3, "scale": scale}
    optimizer = Fira([p], align_signs=align_signs, norm_growth_limit=1.1, **settings)
    m = v = torch.zeros(6, 2, dtype=F64)
    basis, last = torch.zeros(4, 2, dtype=F64), None
    for step in range(1, 9):
        g = randoms(6, 4, seed=10 + step)
        if step % 3 == 1:
            new = torch.linalg.svd(g).Vh[:2].T
            basis = torch.where((new * basis).sum(0) < 0, -new, new) if align_signs and step > 1 else new
        low = g @ basis
        m, v = 0.8 * m + 0.2 * low, 0.9 * v + 0.1 * low.square()
        direction = m / (v.sqrt() + 1e-3)
        outside = direction.norm(dim=1, keepdim=True) / low.norm(dim=1, keepdim=True) * (g - low @ basis.T)
        if last is not None:
            outside = outside / (max(outside.norm() / last, 1.1) / 1.1)
        last = outside.norm()
        corrected = (1 - 0.9**step) ** 0.5 / (1 - 0.8**step)
        w = w - 0.1 * corrected * (scale * direction @ basis.T + outside)
        p.grad = g
        optimizer.step()
        torch.testing.assert_close(p.detach(), w, rtol=1e-9, atol=1e-9)
