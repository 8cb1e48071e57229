"""Uniformly distributed (semi-)orthogonal matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def haar(
    rows: int,
    columns: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""A random matrix with orthonormal columns (tall or square) or rows (wide), uniform over all such matrices.

    With Gaussian :math:`A = QR`, the returned matrix is :math:`Q\,\mathrm{diag}(\mathrm{sgn}(r_{ii}))`, or its
    transpose where it is wide. The factor makes :math:`R`'s diagonal positive and so the factorization unique;
    without it the result depends on the sign convention of the QR routine and is not uniform (Haar).

    Args:
        rows: number of rows, at least 1.
        columns: number of columns, at least 1.
        generator: source of randomness; the draw happens on its device, so a CPU generator gives the same matrix on
            every device.
        dtype: of the result (default: torch's default). The factorization runs in float32 or better.
        device: of the result (default: torch's default).

    Returns:
        Tensor of shape ``(rows, columns)``.

    Raises:
        ValueError: a size is below 1.

    Example:
        >>> Q = haar(5, 3, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(Q.T @ Q, torch.eye(3), atol=1e-6)
        True
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"haar needs at least one row and one column, not {rows} x {columns}")
    dtype = dtype or torch.get_default_dtype()
    device = device or torch.get_default_device()
    where = generator.device if generator is not None else device
    shape = (max(rows, columns), min(rows, columns))
    gaussian = torch.randn(shape, generator=generator, dtype=torch.promote_types(dtype, torch.float32), device=where)
    q, r = torch.linalg.qr(gaussian)
    q = q * torch.linalg.diagonal(r).sgn()
    return (q if rows >= columns else q.mH).to(device=device, dtype=dtype)
