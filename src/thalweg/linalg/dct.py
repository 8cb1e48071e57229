"""The discrete cosine transform: as an orthogonal matrix, and by the fast Fourier transform."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def dct_matrix(
    n: int, type: int = 2, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    r"""The orthonormal cosine matrix whose product with a vector is its DCT-II or DCT-III.

    .. math::
        C_{ij} = \sqrt{2/n}\, \cos\frac{\pi i (2j+1)}{2n}, \quad \text{row 0 times } \sqrt{1/2}, \qquad C C^\top = I

    C itself gives the DCT-II of a column vector, its transpose the DCT-III, which undoes it.

    Args:
        n: size, at least 1.
        type: 2 or 3.
        dtype: of the result (default: torch's default); the cosines are worked out in float64.
        device: of the result.

    Returns:
        Tensor of shape ``(n, n)``; the caller must not change it: calls with equal arguments share it.

    Raises:
        ValueError: ``n < 1``, or another ``type``.

    Example:
        >>> import torch
        >>> dct_matrix(2, dtype=torch.float64).round(decimals=4)
        tensor([[ 0.7071,  0.7071],
                [ 0.7071, -0.7071]], dtype=torch.float64)
    """
    if n < 1:
        raise ValueError(f"a cosine transform needs at least one point, not {n}")
    if type not in (2, 3):
        raise ValueError(f"type must be 2 or 3, not {type!r}")
    return _cosines(n, type, dtype or torch.get_default_dtype(), torch.device(device or "cpu"))


def dct(x: Tensor, type: int = 2) -> Tensor:
    r"""The orthonormal DCT-II, or the DCT-III that undoes it, along the last dimension, in O(n log n).

    Makhoul's way: the even-numbered points ascending, then the odd ones descending, have a real Fourier transform V of the same
    length, and

    .. math::
        X_k = \mathrm{Re}(w_k V_k), \quad X_{n-k} = -\mathrm{Im}(w_k V_k), \qquad w_k = \sqrt{2/n}\, e^{-i \pi k / 2n},
        \quad w_0 = \sqrt{1/n}

    Up to rounding it is ``x @ dct_matrix(n, type).T``, which is faster for short rows: see :func:`dct_rows`.

    Args:
        x: real, shape ``(..., n)``, n at least 1; half precisions are transformed in float32.
        type: 2 or 3.

    Returns:
        Tensor like ``x``.

    Raises:
        ValueError: another ``type``, or no points.

    Example:
        >>> import torch
        >>> dct(torch.tensor([1.0, 0.0, 0.0, 0.0])).round(decimals=4)
        tensor([0.5000, 0.6533, 0.5000, 0.2706])
    """
    if type not in (2, 3):
        raise ValueError(f"type must be 2 or 3, not {type!r}")
    if x.ndim == 0 or x.shape[-1] < 1:
        raise ValueError(f"a cosine transform needs at least one point, not a tensor of shape {tuple(x.shape)}")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (_fast_dct2(wide) if type == 2 else _fast_dct3(wide)).to(x.dtype)


FAST_FROM = {"cpu": 512}
"""Lengths from which :func:`dct` is faster than the product of many float32 rows with the matrix, as measured, by kind of device."""

FAST_ELSEWHERE = 1024
"""The length that the paper's authors give for theirs; not measured here."""


def dct_rows(x: Tensor, type: int = 2, product_dtype: torch.dtype | None = None) -> Tensor:
    """The transform of the last dimension by whichever way is faster for its length: a matrix product or :func:`dct`.

    Both agree up to rounding.

    Args:
        x: real, shape ``(..., n)``, in two dimensions or more; a product lies in memory as x does.
        type: 2 or 3.
        product_dtype: dtype of the product, and of its result, if there is one (default: x's).

    Example:
        >>> import torch
        >>> dct_rows(torch.tensor([[2.0, 0.0, 0.0, 0.0]]), type=3)
        tensor([[1., 1., 1., 1.]])
    """
    n = x.shape[-1]
    if n >= FAST_FROM.get(x.device.type, FAST_ELSEWHERE):
        return dct(x, type)
    dtype = product_dtype or x.dtype
    x, matrix = x.to(dtype), dct_matrix(n, 5 - type, dtype=dtype, device=x.device)
    return (matrix.mT @ x.mT).mT if x.stride(-2) < x.stride(-1) else x @ matrix


def _fast_dct2(x: Tensor) -> Tensor:
    n = x.shape[-1]
    folded = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1)
    turned = torch.fft.rfft(folded) * _twiddles(n, x.dtype, x.device)
    return torch.cat([turned.real, -turned.imag[..., 1 : (n + 1) // 2].flip(-1)], -1)


def _fast_dct3(x: Tensor) -> Tensor:
    n = x.shape[-1]
    mirrored = torch.cat([torch.zeros_like(x[..., :1]), x[..., n - n // 2 :].flip(-1)], -1)
    spectrum = torch.complex(x[..., : n // 2 + 1], -mirrored) / _twiddles(n, x.dtype, x.device)
    folded = torch.fft.irfft(spectrum, n=n)
    found = torch.empty_like(x)
    found[..., ::2] = folded[..., : (n + 1) // 2]
    found[..., 1::2] = folded[..., (n + 1) // 2 :].flip(-1)
    return found


@functools.lru_cache(maxsize=32)
def _twiddles(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The factors w of :func:`dct`, worked out in float64."""
    k = torch.arange(n // 2 + 1, dtype=torch.float64)
    w = torch.polar(torch.full_like(k, math.sqrt(2 / n)), -math.pi / (2 * n) * k)
    w[0] *= math.sqrt(0.5)
    return w.to(dtype=torch.complex128 if dtype is torch.float64 else torch.complex64, device=device)


@functools.lru_cache(maxsize=32)
def _cosines(n: int, type: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    i = torch.arange(n, dtype=torch.int64)
    # cos has period 4n in i (2j + 1): reduced as whole numbers, large arguments lose nothing.
    angles = (i[:, None] * (2 * i + 1) % (4 * n)).to(torch.float64) * (math.pi / (2 * n))
    matrix = torch.cos(angles) * math.sqrt(2 / n)
    matrix[0] *= math.sqrt(0.5)
    return (matrix if type == 2 else matrix.mT.contiguous()).to(dtype=dtype, device=device)
