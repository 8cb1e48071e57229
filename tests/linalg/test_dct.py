"""Cosine matrices: printed numbers, orthogonality, scipy's transform."""

from __future__ import annotations

import pytest
import torch

from thalweg.linalg.dct import dct_matrix

F64 = torch.float64


def test_four_points_by_hand() -> None:
    expected = [
        [0.5, 0.5, 0.5, 0.5],
        [0.6533, 0.2706, -0.2706, -0.6533],
        [0.5, -0.5, -0.5, 0.5],
        [0.2706, -0.6533, 0.6533, -0.2706],
    ]
    torch.testing.assert_close(dct_matrix(4, dtype=F64), torch.tensor(expected, dtype=F64), rtol=0, atol=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 384])
def test_orthogonal_and_scipys(n: int) -> None:
    fft = pytest.importorskip("scipy.fft")
    c = dct_matrix(n, dtype=F64)
    torch.testing.assert_close(c @ c.T, torch.eye(n, dtype=F64), rtol=0, atol=1e-12)
    assert torch.equal(dct_matrix(n, 3, dtype=F64), c.T)
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0), dtype=F64)
    for type in (2, 3):
        expected = torch.from_numpy(fft.dct(x.numpy(), type=type, norm="ortho"))
        torch.testing.assert_close(x @ dct_matrix(n, type, dtype=F64).T, expected, rtol=0, atol=1e-12)


def test_refused_and_shared() -> None:
    with pytest.raises(ValueError, match=r"^a cosine transform needs at least one point, not 0$"):
        dct_matrix(0)
    with pytest.raises(ValueError, match=r"^type must be 2 or 3, not 4$"):
        dct_matrix(3, 4)
    assert dct_matrix(5) is dct_matrix(5) and dct_matrix(5).dtype is torch.float32
