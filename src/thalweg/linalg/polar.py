"""The polar factor of matrices: all singular values set to 1 exactly, or pushed towards it by Newton-Schulz iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.linalg.autocast import autocast_off

Triple = tuple[float, float, float]

QUINTIC: tuple[Triple, ...] = ((3.4445, -4.7750, 2.0315),)
"""Jordan's coefficients: fast from small values; five steps leave singular values in about [0.68, 1.13], not at 1."""

POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.237312490495555, -23.157747414558198, 16.680568411445915),
    (4.082441999064835, -2.893047735332586, 0.5252849256975648),
    (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
    (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
    (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
    (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
    (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
    (1.8749994008682747, -1.2499988017229169, 0.3749994008546422),
)
"""A minimax polynomial for each step; the last is repeated. The input is divided by 1.01 times its norm, for safety in bfloat16."""

Coefficients = str | Triple | Sequence[Triple]


def polar(stack: Tensor) -> Tensor:
    r"""The polar factor ``U V^T`` of each matrix ``U S V^T``, exactly, by its singular value decomposition.

    The sum runs over the singular values that are not zero up to rounding: a matrix of rank r has a factor of rank r.

    Args:
        stack: matrices, shape ``(..., m, n)``.

    Returns:
        Tensor like ``stack``; NaN for matrices that hold NaN or infinities.

    Example:
        >>> import torch
        >>> polar(torch.tensor([[0.0, -3.0], [0.0, 0.0]]))
        tensor([[ 0., -1.],
                [ 0.,  0.]])
    """
    good = stack.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    with autocast_off([stack]):
        left, values, right = torch.linalg.svd(torch.where(good, stack, 0), full_matrices=False)
        rounding = max(stack.shape[-2:]) * torch.finfo(stack.dtype).eps
        kept = values > rounding * values[..., :1]
        factor = (left * kept[..., None, :]) @ right
    return torch.where(good, factor, math.nan)


def newton_schulz(
    stack: Tensor,
    steps: int = 5,
    coefficients: Coefficients = "quintic",
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
) -> Tensor:
    r"""Approximate polar factor ``U V^T`` of each matrix ``U S V^T``.

    .. math::
        X_0 = G / \max(\|G\|_F, \epsilon), \qquad
        A = X X^T, \quad X \leftarrow a X + (b A + c A^2) X

    which maps every singular value x to ``a x + b x^3 + c x^5`` and leaves the singular vectors alone.

    Args:
        stack: matrices, shape ``(..., m, n)``; real.
        steps: number of iterations.
        coefficients: ``"quintic"``, ``"polar_express"``, one triple (a, b, c), or a triple per step (the last is repeated).
        eps: lower bound of the norm that is divided by.
        dtype: dtype of the iteration; ``None``: :func:`newton_schulz_dtype`.
        scale: what to multiply the result by; cheaper here, where it goes into the last polynomial, than afterwards.

    Returns:
        Tensor like ``stack``, in the dtype of the iteration, under ``torch.autocast`` too. A zero matrix stays zero. Where squares
        overflow (norms above about 1e19 in float32 and bfloat16), NaN.

    Raises:
        ValueError: fewer than two dimensions, complex numbers, ``steps < 1``, or coefficients that aren't triples.

    Example:
        >>> import torch
        >>> g = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
        >>> newton_schulz(g, dtype=torch.float64).diagonal().round(decimals=4).tolist()
        [0.7229, 1.1192]
    """
    if stack.ndim < 2:
        raise ValueError(f"newton_schulz needs matrices, not a tensor of shape {tuple(stack.shape)}")
    if stack.is_complex():
        raise ValueError("newton_schulz needs real matrices, not complex ones")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    table = coefficient_table(coefficients)
    shape = stack.shape
    x = stack.to(dtype or newton_schulz_dtype(stack.device, stack.dtype)).reshape(math.prod(shape[:-2]), *shape[-2:])
    with autocast_off([x]):
        return _iterated(x, table, steps, eps, scale).reshape(shape)


def _iterated(x: Tensor, table: tuple[Triple, ...], steps: int, eps: float, scale: float) -> Tensor:
    tall = x.shape[-2] > x.shape[-1]
    norm = torch.ones((), dtype=_norm_dtype(x.dtype))
    for step in range(steps):
        a, b, c = table[min(step, len(table) - 1)]
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)  # the smaller of the two
        if step == 0:
            # The norm is read off the Gram matrix, and divided out there: two passes over x less.
            norm = _frobenius(gram, eps) * (1.01 if table == POLAR_EXPRESS else 1.0)
            gram = (gram / (norm * norm)).to(x.dtype)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        if step == 0:
            polynomial = (polynomial / norm).to(x.dtype)
        if step == steps - 1 and scale != 1.0:
            polynomial *= scale
        x = torch.bmm(x, polynomial) if tall else torch.bmm(polynomial, x)
    return x


def _frobenius(gram: Tensor, eps: float) -> Tensor:
    """Frobenius norms of the matrices whose Gram matrices are given, at least ``eps``; shape (batch, 1, 1)."""
    trace = gram.diagonal(dim1=-2, dim2=-1).to(_norm_dtype(gram.dtype)).sum(-1)
    return trace.sqrt().clamp(min=eps)[:, None, None]


def newton_schulz_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Where the iteration gains from it, bfloat16; float64 stays float64, everything else becomes float32."""
    if dtype is torch.float64:
        return dtype
    return torch.bfloat16 if _fast_bfloat16(device.type) else torch.float32


def newton_schulz_flops(m: int, n: int, steps: int = 5) -> int:
    """Floating-point operations for one m x n matrix."""
    small, large = sorted((m, n))
    return steps * (4 * small * small * large + 2 * small**3)


def coefficient_table(coefficients: Coefficients) -> tuple[Triple, ...]:
    """The triples meant by ``coefficients``, one or more."""
    if isinstance(coefficients, str):
        named = {"quintic": QUINTIC, "polar_express": POLAR_EXPRESS}
        if coefficients not in named:
            raise ValueError(
                f"unknown coefficients {coefficients!r} (choose from quintic, polar_express, or give triples)"
            )
        return named[coefficients]
    try:
        items: Any = [coefficients] if isinstance(coefficients[0], int | float) else coefficients
        table = tuple((float(a), float(b), float(c)) for a, b, c in items)
    except (TypeError, IndexError, ValueError):
        table = ()
    if not table:
        raise ValueError(f"coefficients must be triples (a, b, c), not {coefficients!r}")
    return table


def _fast_bfloat16(device_type: str) -> bool:
    if device_type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return False


def _norm_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
