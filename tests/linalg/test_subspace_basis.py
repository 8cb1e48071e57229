"""Bases: singular vectors, random ones, and columns picked by norm."""

from __future__ import annotations

import itertools

import pytest
import torch

from thalweg.linalg.dct import dct_matrix
from thalweg.linalg.subspace_basis import random_basis, random_columns, svd_basis, top_columns

F64 = torch.float64


def randoms(*shape: int, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=F64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_singular_vectors_at_every_size(dtype: torch.dtype, size: float) -> None:
    x = randoms(2, 9, 5, dtype=dtype)
    basis = svd_basis(x * size, 3)
    expected = torch.linalg.svd(x.double(), full_matrices=False).Vh[:, :3].mT
    assert basis.shape == (2, 5, 3) and basis.dtype is dtype
    overlap = (basis.double() * expected).sum(1).abs()
    torch.testing.assert_close(overlap, torch.ones(2, 3, dtype=F64), rtol=0, atol=1e-6)


def test_a_zero_matrix_and_a_wide_one_have_orthonormal_bases() -> None:
    for x, rank in ((torch.zeros(4, 3), 2), (randoms(2, 6), 5)):
        basis = svd_basis(x, rank)
        torch.testing.assert_close(basis.mT @ basis, torch.eye(rank, dtype=x.dtype), rtol=0, atol=1e-6)


def test_random_ones_follow_their_generator() -> None:
    draws = [random_basis(8, 3, torch.Generator().manual_seed(s), randoms(1)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    torch.testing.assert_close(draws[0].T @ draws[0], torch.eye(3, dtype=F64))
    assert random_basis(8, 0, torch.Generator(), randoms(1)).shape == (8, 0)
    columns = random_columns(50, 20, torch.Generator().manual_seed(0))
    assert columns.unique().tolist() == columns.tolist() and len(columns) == 20 and columns.max() < 50


G = torch.tensor([[1, 1, 1, 1], [1, 2, 3, 4], [0, 0, 1, 1], [2, 0, 0, 2], [1, -1, 1, -1]], dtype=F64)


def test_columns_by_hand() -> None:
    dct2, dct3 = G @ dct_matrix(4, 3, dtype=F64), G @ dct_matrix(4, 2, dtype=F64)
    for spread, norm, scores in (
        (dct2, 1, [10, 3.9197, 2, 2.389]),
        (dct2, 2, [5.831, 2.5326, 2, 1.8936]),
        (dct3, 1, [8.7007, 5.2971, 4.2971, 3.0772]),
    ):
        found = torch.linalg.vector_norm(spread, norm, dim=0)
        torch.testing.assert_close(found, torch.tensor(scores, dtype=F64), rtol=0, atol=5e-4)
    assert top_columns(dct2, 3).tolist() == [0, 1, 3] and top_columns(dct2, 3, norm=2).tolist() == [0, 1, 2]
    assert top_columns(torch.ones(2, 3, 4), 2).tolist() == [[0, 1], [0, 1]]  # ties: the first


def test_the_euclidean_norm_keeps_most() -> None:
    g, q = randoms(7, 6), dct_matrix(6, dtype=F64)

    def error(columns: list[int]) -> float:
        p = q[:, columns]
        return (g - g @ p @ p.T).square().sum().item()

    chosen = top_columns(g @ q, 2, norm=2).tolist()
    assert error(chosen) == min(error(list(pair)) for pair in itertools.combinations(range(6), 2))
    kept = (g @ q)[:, chosen].square().sum()
    assert error(chosen) == pytest.approx((g.square().sum() - kept).item(), rel=1e-12)
