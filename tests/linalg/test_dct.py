"""Cosine matrices: printed numbers, orthogonality, scipy's transform."""

from __future__ import annotations

import pytest
import torch

from thalweg.linalg import dct as module
from thalweg.linalg.dct import dct, dct_matrix, dct_rows

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


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 8, 97, 384, 1024])
@pytest.mark.parametrize("type", [2, 3])
def test_the_fast_transform_is_the_product(n: int, type: int) -> None:
    x = torch.randn(2, 3, n, generator=torch.Generator().manual_seed(n), dtype=F64)
    expected = x @ dct_matrix(n, type, dtype=F64).T
    torch.testing.assert_close(dct(x, type), expected, rtol=0, atol=1e-13 * n**0.5 + 1e-14 * n)
    torch.testing.assert_close(dct(dct(x, type), 5 - type), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(dct(x.float(), type), expected.float(), rtol=0, atol=1e-5)


def test_dtypes_strides_and_gradients() -> None:
    x = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), dtype=F64)
    expected = x.T @ dct_matrix(6, dtype=F64).T
    torch.testing.assert_close(dct(x.T), expected, rtol=0, atol=1e-13)
    half = dct(x.T.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half, dct(x.T.bfloat16().float()).bfloat16(), rtol=0, atol=0)
    for type in (2, 3):
        assert torch.autograd.gradcheck(lambda y, type=type: dct(y, type), x.clone().requires_grad_())


@pytest.mark.parametrize("type", [2, 3])
def test_the_way_depends_on_the_length_and_the_result_does_not(type: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0), dtype=F64)
    calls = []
    monkeypatch.setattr(module, "dct", lambda *a: calls.append(a) or dct(*a))
    product = dct_rows(x, type)
    assert not calls
    for settings in ({"FAST_FROM": {"cpu": 16}}, {"FAST_FROM": {}, "FAST_ELSEWHERE": 16}):
        for name, value in settings.items():
            monkeypatch.setattr(module, name, value)
        torch.testing.assert_close(dct_rows(x, type), product, rtol=0, atol=1e-13)
    assert len(calls) == 2


def test_the_fast_transform_refuses() -> None:
    with pytest.raises(ValueError, match=r"^type must be 2 or 3, not 1$"):
        dct(torch.ones(3), 1)
    with pytest.raises(
        ValueError, match=r"^a cosine transform needs at least one point, not a tensor of shape \(2, 0\)$"
    ):
        dct(torch.ones(2, 0))
