"""Fira's scaling of the residual and the limit of its growth."""

from __future__ import annotations

import pytest
import torch

from thalweg.optim.subspace_residual import limit_growth, scaled_residual

F64 = torch.float64


@pytest.mark.parametrize(("limit", "expected"), [(1.01, [1, 1.01, 1.0201, 0.5, 0.505]), (None, [1, 10, 10, 0.5, 10])])
def test_growth(limit: float | None, expected: list[float]) -> None:
    norm = torch.zeros(1, 1, dtype=F64)
    found = []
    for size in (1.0, 10.0, 10.0, 0.5, 10.0):
        update, norm = limit_growth(torch.tensor([[[0.6 * size, 0.8 * size]]], dtype=F64), norm, limit)
        torch.testing.assert_close(update.norm(), norm[0, 0])
        found.append(norm.item())
    assert found == pytest.approx(expected)


def test_a_zero_norm_limits_nothing() -> None:
    update, norm = limit_growth(torch.full((2, 1, 1), 3.0), torch.tensor([[0.0], [1.0]]), 1.5)
    assert update.flatten().tolist() == [3.0, 1.5] and norm.flatten().tolist() == [3.0, 1.5]


def test_ratios_by_row_and_of_the_matrix() -> None:
    low = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], dtype=F64)
    direction = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], dtype=F64)
    residual = torch.ones(1, 2, 3, dtype=F64)
    by_row = scaled_residual(residual, low, 0.2 * low, per_row=True)
    torch.testing.assert_close(by_row[0, :, 0], torch.tensor([0.2, 0.0], dtype=F64))
    whole = scaled_residual(residual, low, direction, per_row=False)
    torch.testing.assert_close(whole, 5**0.5 / 5 * residual)
