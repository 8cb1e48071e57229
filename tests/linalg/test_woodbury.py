"""Woodbury's identity against dense solves and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from thalweg.linalg import woodbury
from thalweg.linalg.woodbury import woodbury_natural_gradient, woodbury_natural_member

F64 = torch.float64


def test_by_hand() -> None:
    g = torch.tensor([3.0, 4.0], dtype=F64)
    alone = woodbury_natural_gradient(g, g[None], 1e-3)
    torch.testing.assert_close(alone, g / 25.001, rtol=1e-9, atol=0)
    assert [round(x, 6) for x in alone.tolist()] == [0.119995, 0.159994]
    both = woodbury_natural_gradient(g, torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=F64), 1e-3)
    torch.testing.assert_close(both, torch.tensor([1.87196e-4, 0.249844], dtype=F64), rtol=5e-6, atol=0)


@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_equals_the_dense_solve(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    g = torch.randn(3, 30, generator=generator, dtype=F64)
    history = torch.randn(3, count, 30, generator=generator, dtype=F64)
    dense = torch.linalg.solve(1e-3 * torch.eye(30, dtype=F64) + history.mT @ history, g)
    found = woodbury_natural_gradient(g, history, 1e-3)
    assert ((found - dense).norm() / dense.norm()).item() < 1e-8


def test_orthogonal_history_and_empty_rows() -> None:
    g, other = torch.tensor([0.0, 2.0], dtype=F64), torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=F64)
    torch.testing.assert_close(woodbury_natural_gradient(g, other, 0.5), 2 * g, rtol=1e-14, atol=0)


def test_equal_large_gradients_in_float32_stay_accurate() -> None:
    """The result is a hundred millionth of what it is a difference of."""
    g = 300 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    found = woodbury_natural_gradient(g, g.expand(20, -1), 1e-3)
    torch.testing.assert_close(found, (g / (20 * g.double().square().sum())).float(), rtol=1e-2, atol=0)


def test_nonfinite_numbers_spread_and_bad_values_are_refused() -> None:
    g = torch.ones(2, 3)
    g[0, 1] = math.nan
    found = woodbury_natural_gradient(g, g[:, None], 1e-3)
    assert found[0].isnan().all() and found[1].isfinite().all()
    with pytest.raises(ValueError, match=r"^damping must be a number > 0, not 0.0$"):
        woodbury_natural_gradient(g, g[:, None], 0.0)
    with pytest.raises(ValueError, match=r"^gradients of 3 numbers don't go with a history of 4 numbers each$"):
        woodbury_natural_gradient(g, torch.ones(2, 1, 4), 1e-3)


@pytest.mark.parametrize("spread", [1.0, 1e-4, 0.0])
@pytest.mark.parametrize("piece", [7, 100])
def test_of_a_row_of_the_history(spread: float, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 too, where the rows are nearly equal and large."""
    monkeypatch.setattr(woodbury, "PIECE", piece)
    generator = torch.Generator().manual_seed(0)
    history = 100 * torch.randn(2, 1, 30, generator=generator) + spread * torch.randn(2, 5, 30, generator=generator)
    history[:, 4] = 0
    wide = history.to(F64)
    dense = torch.linalg.solve(1e-3 * torch.eye(30, dtype=F64) + wide.mT @ wide, wide[:, 2])
    found = woodbury_natural_member(history, 2, 1e-3)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.to(F64), dense, rtol=1e-5, atol=1e-5 * dense.abs().max().item())


def test_of_a_row_refused_and_not_finite() -> None:
    history = torch.tensor([[[1.0, math.nan]], [[1.0, 0.0]]])
    found = woodbury_natural_member(history, 0, 1.0)
    assert found[0].isnan().all() and found[1].tolist() == [0.5, 0.0]
    with pytest.raises(ValueError, match="damping must be a number > 0"):
        woodbury_natural_member(history, 0, 0.0)
