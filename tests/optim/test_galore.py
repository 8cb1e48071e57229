"""GaLore: another package's and its equations across refreshes, bias corrections that restart."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.linalg.subspace_basis import svd_basis
from thalweg.optim import GaLore

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 12)])
@pytest.mark.parametrize("side", ["std", "reverse", "right", "left"])
def test_equals_pytorch_optimizer_over_refreshes(shape: tuple[int, int], side: str) -> None:
    """With signs of singular vectors as torch gives them. (It refreshes on steps 1, T, 2T, ..., the paper's code on 1, T+1, 2T+1, ...:
    it is told when.) By default ours agree with the old ones, so paths part at the first refresh after the first."""
    peer = pytest.importorskip("pytorch_optimizer").GaLore
    settings = {"lr": 1e-2, "weight_decay": 0.1, "rank": 4, "side": side, "update_every": 6, "decay": "after"}
    ours, aligned, theirs = (nn.Parameter(randoms(*shape).float()) for _ in range(3))
    optimizers = [GaLore([ours], align_signs=False, **settings), GaLore([aligned], **settings)]
    group = {"params": [theirs], "rank": 4, "update_proj_gap": 6, "scale": 0.25}
    group["projection_type"] = "reverse_std" if side == "reverse" else side
    optimizers.append(peer([group], lr=1e-2, weight_decay=0.1))
    for step in range(20):
        if step:
            optimizers[2].state[theirs]["projector"].update_proj_gap = 1 if step % 6 == 0 else 10**9
        for p, optimizer in zip((ours, aligned, theirs), optimizers, strict=True):
            p.grad = randoms(*shape, seed=step).float()
            optimizer.step()
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=1e-5)
        if step < 6:
            torch.testing.assert_close(aligned.detach(), theirs.detach(), rtol=0, atol=1e-5)
    assert (aligned - theirs).abs().max() > 1e-3
    assert (ours.detach() - randoms(*shape).float()).abs().max() > 0.05


@pytest.mark.parametrize("align_signs", [True, False])
@pytest.mark.parametrize("on_switch", ["keep", "reset"])
def test_equations_over_refreshes(on_switch: str, align_signs: bool) -> None:
    p = nn.Parameter(randoms(6, 4))
    w = p.detach().clone()
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "rank": 2, "update_every": 3, "scale": 0.5}
    optimizer = GaLore([p], on_switch=on_switch, align_signs=align_signs, **settings)
    m = v = torch.zeros(6, 2, dtype=F64)
    basis, count = torch.zeros(4, 2, dtype=F64), 0
    for step in range(8):
        g = randoms(6, 4, seed=10 + step)
        if step % 3 == 0:
            if align_signs:
                new = svd_basis(g, 2)
                basis = torch.where((new * basis).sum(0) < 0, -new, new)
            else:
                basis = torch.linalg.svd(g).Vh[:2].T
            if on_switch == "reset":
                m, v, count = 0 * m, 0 * v, 0
        low = g @ basis
        count += 1
        m, v = 0.8 * m + 0.2 * low, 0.9 * v + 0.1 * low.square()
        corrected = (1 - 0.9**count) ** 0.5 / (1 - 0.8**count)
        w = w - 0.1 * corrected * 0.5 * (m / (v.sqrt() + 1e-3)) @ basis.T
        p.grad = g
        optimizer.step()
        torch.testing.assert_close(p.detach(), w, rtol=1e-9, atol=1e-9)


def test_a_module_parts_its_parameters() -> None:
    model = nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    groups = GaLore(model, rank=2).param_groups
    assert [(g["rule"], g["param_names"]) for g in groups] == [
        ("subspace", ["1.weight", "2.weight"]),
        ("adamw", ["0.weight", "3.weight"]),
        ("adamw", ["1.bias", "2.bias", "3.bias"]),
    ]
    assert [g["lr"] for g in groups] == [1e-2, 1e-3, 1e-3] and "rank" not in groups[1]
