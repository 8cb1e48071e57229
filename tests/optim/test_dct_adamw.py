"""DCT-AdamW: AdamW in rotated coordinates, carry-over of moments, error feedback."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.linalg.dct import dct_matrix
from thalweg.optim import Chained, DCTAdamW, momentum, subspace

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize(("basis", "type"), [("dct2", 3), ("dct3", 2)])
def test_full_rank_is_adamw_in_rotated_coordinates(basis: str, type: int) -> None:
    q = dct_matrix(4, type, dtype=F64)
    p = nn.Parameter(randoms(6, 4))
    rotated = nn.Parameter(p.detach() @ q)
    ours, adamw = (
        DCTAdamW([p], lr=0.01, basis=basis, weight_decay=0.1),
        torch.optim.AdamW([rotated], 0.01, weight_decay=0.1),
    )
    plain = nn.Parameter(p.detach().clone())
    other = torch.optim.AdamW([plain], 0.01, weight_decay=0.1)
    for step in range(8):
        g = randoms(6, 4, seed=step)
        p.grad, rotated.grad, plain.grad = g, g @ q, g
        for optimizer in (ours, adamw, other):
            optimizer.step()
    torch.testing.assert_close(p.detach(), rotated.detach() @ q.T, rtol=0, atol=1e-9)
    assert (p - plain).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(9, 6), (6, 9)])
def test_carry_over_is_the_dense_rotation(shape: tuple[int, int]) -> None:
    q = dct_matrix(6, 3, dtype=F64)
    p = nn.Parameter(randoms(*shape))
    optimizer = DCTAdamW([p], lr=0.01, rank=3)
    state = optimizer.state[p]
    changes = 0
    for step in range(6):
        old = {k: v.clone() for k, v in state.items() if k != "step"} if step else None
        p.grad = randoms(*shape, seed=step)
        optimizer.step()
        state = optimizer.state[p]
        if old is None:
            continue
        before, after = q[:, old["columns"].long()], q[:, state["columns"].long()]
        changes += not torch.equal(old["columns"], state["columns"])
        turn = (before.T @ after).round()
        assert set(turn.unique().abs().tolist()) <= {0.0, 1.0}
        low = (p.grad if shape[0] >= shape[1] else p.grad.T) @ after
        torch.testing.assert_close(state["exp_avg"], 0.9 * old["exp_avg"] @ turn + 0.1 * low)
        torch.testing.assert_close(state["exp_avg_sq"], 0.999 * old["exp_avg_sq"] @ turn + 0.001 * low.square())
        assert (state["exp_avg_sq"] >= 0).all()
    assert changes >= 2 and state["columns"].dtype is torch.int32


def test_error_feedback_loses_nothing() -> None:
    p = nn.Parameter(torch.zeros(6, 4, dtype=F64))
    plain = subspace(momentum(momentum=0.0), rank=1, basis="dct2", residual="error_feedback", update_every=2)
    optimizer = Chained([p], plain, lr=1.0)
    total = torch.zeros(6, 4, dtype=F64)
    for step in range(6):
        p.grad = randoms(6, 4, seed=step)
        total += p.grad
        optimizer.step()
        torch.testing.assert_close(-p.detach() + optimizer.state[p]["error"], total, rtol=0, atol=1e-12)
    assert DCTAdamW([p], error_feedback=True).rules["subspace"].state_keys(of_matrices=True)[-1] == "error"


def test_refused() -> None:
    p = [nn.Parameter(torch.ones(2, 2))]
    with pytest.raises(ValueError, match=r"^unknown basis 'svd' \(choose from dct2, dct3\)$"):
        DCTAdamW(p, basis="svd")
    with pytest.raises(ValueError, match=r"^Invalid selection_norm: 3 \(must be 1 or 2\)$"):
        DCTAdamW(p, selection_norm=3)
