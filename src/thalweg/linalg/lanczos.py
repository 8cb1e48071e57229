"""Eigenvalues of a large symmetric operator from a few products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Ritz(NamedTuple):
    """What Lanczos found, largest value first.

    ``residuals[i]`` bounds the distance from ``values[i]`` to the nearest eigenvalue. ``weights[i]`` is the squared
    component of the start vector along the i-th Ritz vector (they sum to 1): the nodes and weights of a Gauss
    quadrature of the start vector's spectrum. ``vectors`` has the Ritz vectors as rows, or is ``None``.
    """

    values: Tensor
    residuals: Tensor
    weights: Tensor
    vectors: Tensor | None


def lanczos(
    operator: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    *,
    top: int | None = None,
    tol: float = 1e-6,
    vectors: bool = False,
    generator: torch.Generator | None = None,
) -> Ritz:
    r"""Lanczos iteration with full re-orthogonalization.

    After m steps :math:`Q^\top A Q = T` is tridiagonal, with orthonormal columns :math:`Q` that span
    :math:`\{v, Av, \dots, A^{m-1}v\}`. The eigenvalues of T (Ritz values) approach A's, the outermost first. The basis
    is orthogonalized twice against all earlier vectors, so no value appears twice by rounding; where the space is
    exhausted early, the iteration goes on from a new random direction. A repeated eigenvalue is seen once until then.
    As many steps as dimensions give all eigenvalues, with multiplicity.

    Args:
        operator: ``operator(v) -> A v`` for flat tensors, A symmetric.
        start: first vector ``(n,)``, not zero; its dtype and device are used for the basis of ``(steps, n)`` numbers.
        steps: largest number of products with A.
        top: stop as soon as the ``top`` largest Ritz values have residuals below ``tol`` times the largest modulus.
        tol: see ``top``.
        vectors: return Ritz vectors as well.
        generator: source of the new directions.

    Returns:
        :class:`Ritz`, values in float64.

    Raises:
        ValueError: ``start`` is zero, not finite or not flat, or ``steps`` is below 1.

    Example:
        >>> A = torch.diag(torch.tensor([5.0, 1.0, -7.0]))
        >>> [round(v, 4) for v in lanczos(lambda v: A @ v, torch.ones(3), steps=3).values.tolist()]
        [5.0, 1.0, -7.0]
    """
    norm = float(start.norm())
    if start.dim() != 1 or not 0 < norm < float("inf"):
        raise ValueError("start must be a flat, finite vector that is not zero")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    size = start.numel()
    basis = start.new_empty(min(steps, size), size)
    diagonal: list[float] = []
    off: list[float] = []
    scale, vector = 0.0, start / norm
    rounding = 10 * size**0.5 * torch.finfo(start.dtype).eps
    for j in range(len(basis)):
        basis[j] = vector
        image = operator(vector)
        diagonal.append(float(vector @ image))
        image = _orthogonalize(image, basis[: j + 1])
        beta = float(image.norm())
        scale = max(scale, abs(diagonal[-1]), beta)
        exhausted = beta <= rounding * scale
        off.append(0.0 if exhausted else beta)
        if j + 1 == len(basis):
            break
        vector = _new_direction(basis[: j + 1], generator) if exhausted else image / beta
        # An exhausted space says nothing about what lies outside, so convergence is not judged there.
        if top is not None and not exhausted and j % 5 == 4 and _converged(diagonal, off, top, tol):
            break
    values, residuals, T_vectors = _ritz(diagonal, off)
    found = T_vectors.T.to(basis) @ basis[: len(diagonal)] if vectors else None
    return Ritz(values, residuals, T_vectors[0].square(), found)


def _orthogonalize(vector: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):  # once loses up to half of the digits, twice is enough
        vector = vector - basis.T @ (basis @ vector)
    return vector


def _new_direction(basis: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else basis.device
    noise = torch.randn(basis.shape[1], generator=generator, dtype=basis.dtype, device=device).to(basis.device)
    vector = _orthogonalize(noise, basis)
    vector = _orthogonalize(
        vector / vector.norm(), basis
    )  # again: next to nothing may be left when few directions remain
    return vector / vector.norm()


def _ritz(diagonal: list[float], off: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues of T (descending), residual bounds, eigenvectors of T (columns)."""
    d, e = torch.tensor(diagonal, dtype=torch.float64), torch.tensor(off, dtype=torch.float64)
    T = torch.diag(d) + torch.diag(e[:-1], 1) + torch.diag(e[:-1], -1)
    values, T_vectors = torch.linalg.eigh(T)
    values, T_vectors = values.flip(0), T_vectors.flip(1)
    return values, e[-1] * T_vectors[-1].abs(), T_vectors


def _converged(diagonal: list[float], off: list[float], top: int, tol: float) -> bool:
    values, residuals, _ = _ritz(diagonal, off)
    return len(values) >= top and bool((residuals[:top] <= tol * values.abs().max()).all())
