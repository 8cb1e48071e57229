"""Trion: full rank is Muon, what is chosen and what is fed back, sides, the fast transform."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.linalg import dct as dct_module
from thalweg.linalg.dct import dct_matrix
from thalweg.linalg.polar import newton_schulz
from thalweg.linalg.subspace_basis import top_columns
from thalweg.optim import Chained, Muon, Trion, momentum, orthogonalize, trion_direction

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def run(p: nn.Parameter, optimizer: torch.optim.Optimizer, steps: int) -> torch.Tensor:
    for step in range(steps):
        p.grad = randoms(*p.shape, seed=100 + step)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("basis", ["dct2", "dct3"])
def test_full_rank_is_muon_without_nesterov(shape: tuple[int, int], basis: str) -> None:
    """Newton-Schulz commutes with rotations; at full rank all of the momentum decays, after the step rather than before."""
    p, q = nn.Parameter(randoms(*shape)), nn.Parameter(randoms(*shape))
    ours = Trion([p], lr=0.1, weight_decay=0.1, rank=9, basis=basis)
    muon = Chained([q], momentum(momentum=0.95) >> orthogonalize(), lr=0.1, weight_decay=0.1)
    torch.testing.assert_close(run(p, ours, 5), run(q, muon, 5), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        ours.state[p]["momentum_buffer"], 0.95 * muon.state[q]["momentum_buffer"], rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(
    ("scaling", "factor"), [("original", 1.5**0.5), ("match_rms_adamw", 0.2 * 6**0.5), ("spectral", 1.5**0.5)]
)
def test_two_steps_written_out(scaling: str, factor: float) -> None:
    p, w, m = nn.Parameter(randoms(6, 4)), randoms(6, 4), torch.zeros(6, 4, dtype=F64)
    optimizer = Trion([p], lr=0.1, weight_decay=0.2, rank=2, momentum=0.8, adjust_lr_fn=scaling)
    q = dct_matrix(4, 3, dtype=F64)
    for step in range(2):
        g = p.grad = randoms(6, 4, seed=7 + step)
        optimizer.step()
        m = m + g
        chosen = q[:, top_columns(m @ q, 2)]
        low = m @ chosen
        w = (1 - 0.1 * 0.2) * w - 0.1 * factor * newton_schulz(low) @ chosen.T
        m = m - 0.2 * low @ chosen.T
        torch.testing.assert_close(p.detach(), w, rtol=0, atol=1e-12)
        torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], m, rtol=0, atol=1e-12)


def test_what_is_left_out_is_used_later() -> None:
    """Two columns of the transform, of which one fits: the smaller one's gradients add up until it is the larger."""
    q = dct_matrix(4, 3, dtype=F64)
    p = nn.Parameter(torch.zeros(5, 4, dtype=F64))
    optimizer = Trion([p], lr=1.0, rank=1, momentum=0.0)
    row = randoms(5, 1)
    moved = []
    for _ in range(4):
        p.grad = row @ (q[:, 0] + 0.4 * q[:, 1])[None]
        before = p.detach().clone()
        optimizer.step()
        moved.append(int(((p.detach() - before) @ q).abs().sum(0).argmax()))
    assert moved == [0, 0, 1, 0]  # 0.4, 0.8 and 1.2 against 1
    assert torch.linalg.matrix_rank(optimizer.state[p]["momentum_buffer"]) == 1


def test_transposed_problems_move_transposed() -> None:
    """With a factor that is the same for both shapes."""
    p, q = nn.Parameter(randoms(6, 4)), nn.Parameter(randoms(6, 4).T.contiguous())
    ours, turned = (Trion([w], lr=0.1, rank=2, adjust_lr_fn="match_rms_adamw") for w in (p, q))
    for step in range(4):
        p.grad = randoms(6, 4, seed=step)
        q.grad = p.grad.T.contiguous()
        ours.step()
        turned.step()
    torch.testing.assert_close(p.detach(), q.detach().T, rtol=0, atol=1e-12)


def test_the_fast_transform_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for start in (1000, 1):
        monkeypatch.setattr(dct_module, "FAST_FROM", {"cpu": start})
        p = nn.Parameter(randoms(9, 7))
        ends.append(run(p, Trion([p], lr=0.1, rank=3), 5))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-12)


def test_a_model_and_ranks_by_group() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)).double()
    groups = [(group["rule"], group["param_names"]) for group in Trion(model).param_groups]
    assert groups[:2] == [("trion", ["0.weight", "1.weight"]), ("adamw", ["2.weight"])]
    assert groups == [(g["rule"].replace("muon", "trion"), g["param_names"]) for g in Muon(model).param_groups]
    a, b = nn.Parameter(torch.zeros(5, 4, dtype=F64)), nn.Parameter(torch.zeros(5, 4, dtype=F64))
    optimizer = Trion([{"params": [a], "rule": "trion", "rank": 1}, {"params": [b], "rule": "trion"}], rank=3)
    a.grad, b.grad = randoms(5, 4), randoms(5, 4)
    optimizer.step()
    assert [int(torch.linalg.matrix_rank(p.detach())) for p in (a, b)] == [1, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "Invalid rank: 0 (must be a whole number >= 1)"),
        ({"basis": "svd"}, "unknown basis 'svd' (choose from dct2, dct3)"),
        ({"selection_norm": 3}, "Invalid selection_norm: 3 (must be 1 or 2)"),
        ({"adjust_lr_fn": "kj"}, "unknown adjust_lr_fn 'kj' (choose from original, match_rms_adamw, spectral, none)"),
        ({"ns_dtype": "int8"}, "unknown ns_dtype 'int8' (choose from float32, float64, bfloat16)"),
        ({"momentum": -1.0}, "Invalid momentum: -1.0 (must be in [0, 1))"),
    ],
)
def test_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        trion_direction(**settings)
    assert str(caught.value) == message
