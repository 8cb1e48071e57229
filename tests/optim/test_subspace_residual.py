"""Fira's scaling of the residual and the limit of its growth."""

from __future__ import annotations

import pytest
import torch

from thalweg.optim.subspace_residual import limit_growth, residual_norm, stretch

F64 = torch.float64


@pytest.mark.parametrize(("limit", "expected"), [(1.01, [1, 1.01, 1.0201, 0.5, 0.505]), (None, [1, 10, 10, 0.5, 10])])
def test_growth(limit: float | None, expected: list[float]) -> None:
    norm = torch.zeros(1, 1, dtype=F64)
    found = []
    for size in (1.0, 10.0, 10.0, 0.5, 10.0):
        excess, norm = limit_growth(torch.full((1, 1), size, dtype=F64), norm, limit)
        torch.testing.assert_close(size / excess, norm)
        found.append(norm.item())
    assert found == pytest.approx(expected)


def test_a_zero_norm_limits_nothing() -> None:
    excess, norm = limit_growth(torch.full((2, 1), 3.0), torch.tensor([[0.0], [1.0]]), 1.5)
    assert excess.flatten().tolist() == [1.0, 2.0] and norm.flatten().tolist() == [3.0, 1.5]


def test_ratios_by_row_and_of_the_matrix() -> None:
    low = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]], dtype=F64)
    direction = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], dtype=F64)
    assert stretch(low, 0.2 * low, per_row=True).flatten().tolist() == pytest.approx([0.2, 0.0])
    assert stretch(low, direction, per_row=False).item() == pytest.approx(5**0.5 / 5)


@pytest.mark.parametrize("share", [1.0, 0.25])
@pytest.mark.parametrize("rows", [6, 1])
@pytest.mark.parametrize("outside", [1.0, 1e-2, 0.0])
def test_the_norm_is_that_of_the_stretched_residual(share: float, rows: int, outside: float) -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(2, 5, 5, generator=generator, dtype=F64)).Q
    low, beyond = (torch.randn(2, 6, n, generator=generator, dtype=F64) for n in (2, 3))
    x = low @ basis[..., :2].mT + outside * beyond @ basis[..., 2:].mT
    ratio = torch.rand(2, rows, 1, generator=generator, dtype=F64)
    residual = x - share * low @ basis[..., :2].mT
    asked = []
    norm = residual_norm(x, low, ratio, share, lambda: asked.append(1) or residual)
    torch.testing.assert_close(norm[:, 0], (ratio * residual).norm(dim=(-2, -1)))
    assert bool(asked) == (share == 1.0 and outside < 1)  # where squares would cancel
