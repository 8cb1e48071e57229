"""The discrete cosine transform as an orthogonal matrix."""

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


@functools.lru_cache(maxsize=32)
def _cosines(n: int, type: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    i = torch.arange(n, dtype=torch.int64)
    # cos has period 4n in i (2j + 1): reduced as whole numbers, large arguments lose nothing.
    angles = (i[:, None] * (2 * i + 1) % (4 * n)).to(torch.float64) * (math.pi / (2 * n))
    matrix = torch.cos(angles) * math.sqrt(2 / n)
    matrix[0] *= math.sqrt(0.5)
    return (matrix if type == 2 else matrix.mT.contiguous()).to(dtype=dtype, device=device)
