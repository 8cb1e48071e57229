"""Projectors of gradients: what a subspace is stored as, how it is fitted, and the way into it and back.

All work on stacks ``(batch, M, N)`` whose rows are projected, and keep their tensors in a dict, ``(batch, ...)`` each. Which side of
the parameter the rows are is the caller's business (:mod:`thalweg.optim.subspace`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from thalweg.linalg.dct import dct_matrix, dct_rows
from thalweg.linalg.haar import haar
from thalweg.linalg.subspace_basis import random_basis, random_columns, svd_basis, top_columns

Kept = dict[str, Tensor]
Outside = Callable[[Tensor], Tensor]
Layout = dict[str, tuple[tuple[int, ...], torch.dtype | None]]


class GradientProjector(Protocol):
    """What :func:`thalweg.optim.subspace` needs of a subspace."""

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of what is kept."""

    def largest_rank(self, rows: int, columns: int) -> int:
        """The rank at which nothing is lost."""

    def layout(self, rows: int, columns: int, rank: int) -> Layout:
        """Shape and dtype (None: the state's) of what is kept for one matrix."""

    def projected_shape(self, rows: int, columns: int, rank: int) -> tuple[int, int]:
        """Shape of a projected matrix."""

    def fit(
        self, x: Tensor, kept: Kept, generator: torch.Generator, norm: int, turned: bool = False
    ) -> tuple[Kept, Tensor]:
        """A new subspace for ``x``, of the rank of the old one, and ``x`` in it; ``norm`` is for those that pick columns, ``turned``
        says that ``x`` is the transposed parameter."""

    def down(self, x: Tensor, kept: Kept) -> Tensor:
        """``x`` in the subspace."""

    def up(self, low: Tensor, kept: Kept, like: Tensor) -> Tensor:
        """Back to the full space, a new tensor of ``like``'s shape that lies in memory as it does."""

    def without(self, x: Tensor, low: Tensor, kept: Kept) -> Tensor:
        """``x - up(low)`` as a new tensor; for ``low = down(x)`` what of ``x`` lies outside the subspace."""

    def merge(self, outside: Outside, x: Tensor, low: Tensor, direction: Tensor, kept: Kept) -> Tensor:
        """``outside(without(x, low)) + up(direction)``, a new tensor, for ``low = down(x)``; ``outside`` works on each number alone,
        leaves 0 as it is, and returns a new tensor."""

    def carry(self, low: Tensor, old: Kept, new: Kept, squares: bool) -> Tensor:
        """What lies in an old subspace, seen in a new one; ``squares``: numbers are variances and not coordinates."""


class _Products:
    """What projectors have in common whose way back is a product; ``dtype`` is a narrower one for that and the way in."""

    def without(self: GradientProjector, x: Tensor, low: Tensor, kept: Kept) -> Tensor:
        return x - self.up(low, kept, x)

    def merge(
        self: GradientProjector, outside: Outside, x: Tensor, low: Tensor, direction: Tensor, kept: Kept
    ) -> Tensor:
        return outside(self.without(x, low, kept)).add_(self.up(direction, kept, x))


@dataclass(frozen=True)
class DenseProjector(_Products):
    """Orthonormal columns B ``(N, r)``, by singular value decomposition or random: ``low = X B``.

    ``align_signs``: singular vectors are signed to agree with the last ones; else as ``torch.linalg.svd`` signs them.
    """

    random: bool = False
    dtype: torch.dtype | None = None
    names: tuple[str, ...] = ("basis",)
    align_signs: bool = True

    def largest_rank(self, rows: int, columns: int) -> int:
        return min(rows, columns)

    def layout(self, rows: int, columns: int, rank: int) -> Layout:
        return {"basis": ((columns, rank), None)}

    def projected_shape(self, rows: int, columns: int, rank: int) -> tuple[int, int]:
        return rows, rank

    def fit(
        self, x: Tensor, kept: Kept, generator: torch.Generator, norm: int, turned: bool = False
    ) -> tuple[Kept, Tensor]:
        old = kept["basis"]
        if self.random:
            new = {"basis": random_basis(x.shape[-1], old.shape[-1], generator, x).expand_as(old)}
        elif self.align_signs:
            new = {"basis": _refitted(x, old)}
        else:
            new = {"basis": _or_old(x, _svd(x, old.shape[-1], turned)[1], old)}
        return new, self.down(x, new)

    def down(self, x: Tensor, kept: Kept) -> Tensor:
        return product_like(x, kept["basis"], x, self.dtype).to(x.dtype).contiguous()

    def up(self, low: Tensor, kept: Kept, like: Tensor) -> Tensor:
        return product_like(low, kept["basis"].mT, like, self.dtype)

    def carry(self, low: Tensor, old: Kept, new: Kept, squares: bool) -> Tensor:
        return low @ _rotation(old["basis"], new["basis"], squares)


@dataclass(frozen=True)
class TwoSidedProjector(_Products):
    """Singular vectors of both sides, A ``(M, r)`` and B ``(N, r)``: ``low = A^T X B`` is r x r.

    Of the matrix that they were fitted to, ``low`` is diagonal. What rounding leaves beside the diagonal, and on it beyond the
    matrix's rank, is set to 0: a rule that looks at signs, or Adam at its first step, would make full-size steps of it.
    """

    dtype: torch.dtype | None = None
    names: tuple[str, ...] = ("basis", "left_basis")
    align_signs: bool = True

    def largest_rank(self, rows: int, columns: int) -> int:
        return min(rows, columns)

    def layout(self, rows: int, columns: int, rank: int) -> Layout:
        return {"basis": ((columns, rank), None), "left_basis": ((rows, rank), None)}

    def projected_shape(self, rows: int, columns: int, rank: int) -> tuple[int, int]:
        return rank, rank

    def fit(
        self, x: Tensor, kept: Kept, generator: torch.Generator, norm: int, turned: bool = False
    ) -> tuple[Kept, Tensor]:
        if self.align_signs:
            right = _refitted(x, kept["basis"])
            new = {"basis": right, "left_basis": _refitted(x, kept["left_basis"], lambda x, _: _left_factors(x, right))}
        else:
            left, right = _svd(x, kept["basis"].shape[-1], turned)
            new = {"basis": _or_old(x, right, kept["basis"]), "left_basis": _or_old(x, left, kept["left_basis"])}
        low = self.down(x, new)
        return new, torch.where(_has_vectors(x), _diagonal(low), low)

    def down(self, x: Tensor, kept: Kept) -> Tensor:
        return kept["left_basis"].mT @ product_like(x, kept["basis"], x, self.dtype).to(x.dtype)

    def up(self, low: Tensor, kept: Kept, like: Tensor) -> Tensor:
        return product_like(kept["left_basis"] @ low, kept["basis"].mT, like, self.dtype)

    def carry(self, low: Tensor, old: Kept, new: Kept, squares: bool) -> Tensor:
        left, right = (_rotation(old[name], new[name], squares) for name in ("left_basis", "basis"))
        return left.mT @ low @ right


@dataclass(frozen=True)
class ColumnProjector(_Products):
    """Some columns of ``X Q`` for a fixed orthogonal Q, of which only their numbers are stored.

    ``transform``: ``"dct2"``, ``"dct3"`` or ``"haar"`` (random, the same for every matrix of that width), where the largest columns
    are taken; None, Q = I, where they are drawn at random.
    """

    transform: str | None = None
    dtype: torch.dtype | None = None
    names: tuple[str, ...] = ("columns",)

    def largest_rank(self, rows: int, columns: int) -> int:
        return columns

    def layout(self, rows: int, columns: int, rank: int) -> Layout:
        return {"columns": ((rank,), torch.int32)}

    def projected_shape(self, rows: int, columns: int, rank: int) -> tuple[int, int]:
        return rows, rank

    def fit(
        self, x: Tensor, kept: Kept, generator: torch.Generator, norm: int, turned: bool = False
    ) -> tuple[Kept, Tensor]:
        old = kept["columns"]
        if self.transform is None:
            chosen = random_columns(x.shape[-1], old.shape[-1], generator).to(x.device).expand(old.shape)
            spread = x
        else:
            spread = self._spread(x)
            chosen = top_columns(spread, old.shape[-1], norm)
        low = _picked(spread, chosen).to(x.dtype)
        return {"columns": chosen.to(torch.int32)}, low

    def down(self, x: Tensor, kept: Kept) -> Tensor:
        chosen = kept["columns"].long()
        if self.transform is None:
            return _picked(x, chosen)
        return product_like(x, self._basis(x).mT[chosen].mT, x, self.dtype).to(x.dtype).contiguous()

    def up(self, low: Tensor, kept: Kept, like: Tensor) -> Tensor:
        chosen = kept["columns"].long()
        if self.transform is None:
            return _put(torch.zeros_like(like), chosen, low)
        return product_like(low, self._basis(like).mT[chosen], like, self.dtype)

    def without(self, x: Tensor, low: Tensor, kept: Kept) -> Tensor:
        if self.transform is None:
            return _put(x.clone(), kept["columns"].long(), torch.zeros_like(low))
        return super().without(x, low, kept)

    def merge(self, outside: Outside, x: Tensor, low: Tensor, direction: Tensor, kept: Kept) -> Tensor:
        if self.transform is None:
            return _put(outside(x), kept["columns"].long(), direction)
        return super().merge(outside, x, low, direction, kept)

    def carry(self, low: Tensor, old: Kept, new: Kept, squares: bool) -> Tensor:
        """Columns that are in both are carried over as they are; the others start from 0."""
        match = old["columns"][:, :, None] == new["columns"][:, None, :]
        place = match.to(torch.uint8).argmax(1)[:, None, :].expand(-1, low.shape[1], -1)
        return low.gather(-1, place).masked_fill_(~match.any(1)[:, None, :], 0)

    def _spread(self, x: Tensor) -> Tensor:
        """``X Q``: for dct2 the DCT-II of the rows, and so is Q the DCT-III matrix."""
        if self.transform == "haar":
            return product_like(x, self._basis(x), x, self.dtype)
        return dct_rows(x, 2 if self.transform == "dct2" else 3, self.dtype)

    def _basis(self, x: Tensor) -> Tensor:
        """Q ``(N, N)``."""
        n = x.shape[-1]
        if self.transform == "haar":
            return _random_orthogonal(n, x.dtype, x.device)
        return dct_matrix(n, 3 if self.transform == "dct2" else 2, dtype=x.dtype, device=x.device)


@functools.lru_cache(maxsize=32)
def _random_orthogonal(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return haar(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64).to(dtype=dtype, device=device)


@dataclass(frozen=True)
class BlockProjector:
    """Whole matrices or nothing.

    ``active`` is ``(1,)`` for a matrix that is projected onto itself. For the others it is empty, like all state of the inner rule;
    equal shapes go together, so a stack has matrices of one kind only.
    """

    dtype: torch.dtype | None = None  # nothing is multiplied
    names: tuple[str, ...] = ("active",)

    def largest_rank(self, rows: int, columns: int) -> int:
        return columns

    def layout(self, rows: int, columns: int, rank: int) -> Layout:
        return {"active": ((1 if rank else 0,), torch.int32)}

    def projected_shape(self, rows: int, columns: int, rank: int) -> tuple[int, int]:
        return (rows, columns) if rank else (0, columns)

    def fit(
        self, x: Tensor, kept: Kept, generator: torch.Generator, norm: int, turned: bool = False
    ) -> tuple[Kept, Tensor]:
        return kept, self.down(x, kept)

    def down(self, x: Tensor, kept: Kept) -> Tensor:
        return x if kept["active"].shape[-1] else x[:, :0]

    def up(self, low: Tensor, kept: Kept, like: Tensor) -> Tensor:
        return low if kept["active"].shape[-1] else torch.zeros_like(like)

    def without(self, x: Tensor, low: Tensor, kept: Kept) -> Tensor:
        return torch.zeros_like(x) if kept["active"].shape[-1] else x.clone()

    def merge(self, outside: Outside, x: Tensor, low: Tensor, direction: Tensor, kept: Kept) -> Tensor:
        return direction if kept["active"].shape[-1] else outside(x)

    def carry(self, low: Tensor, old: Kept, new: Kept, squares: bool) -> Tensor:
        return low


PROJECTORS: dict[str, Callable[..., GradientProjector]] = {
    "svd": DenseProjector,
    "random": functools.partial(DenseProjector, True),
    "svd_both": TwoSidedProjector,
    "dct2": functools.partial(ColumnProjector, "dct2"),
    "dct3": functools.partial(ColumnProjector, "dct3"),
    "haar": functools.partial(ColumnProjector, "haar"),
    "columns": ColumnProjector,
    "blocks": BlockProjector,
}
"""Bases by name; each takes ``dtype``, that of its products."""


def product_like(a: Tensor, b: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``a @ b`` in rows or columns, as ``like`` lies in memory, so that what follows runs over all in one order. It is worked out and
    returned in ``dtype`` (None: their own)."""
    if dtype is not None:
        a, b = a.to(dtype), b.to(dtype)
    if like.stride(-2) < like.stride(-1):
        return product(b.mT, a.mT).mT
    return product(a, b)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of stacks; one matrix goes to the faster routine for one."""
    return torch.mm(a[0], b[0])[None] if len(a) == 1 == len(b) else a @ b


def _picked(x: Tensor, columns: Tensor) -> Tensor:
    """Columns of each matrix, by number."""
    return x.gather(-1, columns[:, None, :].expand(-1, x.shape[1], -1))


def _put(x: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Columns of each matrix replaced, by number, in place."""
    if len(x) == 1:
        return x.index_copy_(-1, columns[0], values)
    return x.scatter_(-1, columns[:, None, :].expand_as(values), values)


def _left_factors(x: Tensor, right: Tensor) -> Tensor:
    """Left singular vectors that belong to right ones: the columns of X B = A S are orthogonal, so QR only scales them."""
    return torch.linalg.qr(x @ right).Q


def _svd(x: Tensor, rank: int, turned: bool) -> tuple[Tensor, Tensor]:
    """Leading singular vectors of both sides, of the parameter as it lies: their signs depend on that."""
    x = torch.where(_has_vectors(x), x, 0)
    u, _, v = torch.linalg.svd(x.mT if turned else x, full_matrices=False)
    left, right = (v.mT, u) if turned else (u, v.mT)
    return left[..., :rank], right[..., :rank]


def _refitted(x: Tensor, old: Tensor, factors: Callable[[Tensor, int], Tensor] = svd_basis) -> Tensor:
    """Leading singular vectors, signed to agree with the old ones: a kept momentum then doesn't turn round by accident."""
    new = factors(torch.where(_has_vectors(x), x, 0), old.shape[-1])
    return _or_old(x, torch.where((old * new).sum(-2, keepdim=True) < 0, -new, new), old)


def _or_old(x: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """The new vectors; matrices that are zero or not finite have none, and keep the old ones, at the start the first unit vectors."""
    at_start = (old == 0).all(-1, keepdim=True).all(-2, keepdim=True)
    unit = torch.eye(*old.shape[-2:], dtype=old.dtype, device=old.device)
    return torch.where(_has_vectors(x), new, torch.where(at_start, unit, old))


def _has_vectors(x: Tensor) -> Tensor:
    """Which matrices have singular vectors, ``(batch, 1, 1)``."""
    return x.isfinite().all((-2, -1), keepdim=True) & (x != 0).any(-1, keepdim=True).any(-2, keepdim=True)


def _diagonal(low: Tensor) -> Tensor:
    """The diagonal alone, and of it what stands out from rounding: products leave less than half an eps of the largest."""
    values = low.diagonal(dim1=-2, dim2=-1)
    if not values.numel():
        return low
    noise = 10 * torch.finfo(low.dtype).eps * values.abs().amax(-1, keepdim=True)
    return torch.where(values.abs() > noise, values, 0).diag_embed()


def _rotation(old: Tensor, new: Tensor, squares: bool) -> Tensor:
    rotation = old.mT @ new
    return rotation * rotation if squares else rotation
