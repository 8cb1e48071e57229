"""Which side of a matrix is projected: every projector works on rows, so the matrix is turned first, and its update back."""

from __future__ import annotations

import torch
from torch import Tensor

SIDES = ("std", "reverse", "right", "left", "flat")
"""The shorter side, rows if equal; the longer; rows; columns; the matrix as one row."""


def is_transposed(m: int, n: int, side: str) -> bool:
    """Whether an m x n matrix is turned."""
    return side == "left" or (side == "std" and m < n) or (side == "reverse" and m >= n)


def oriented_shape(m: int, n: int, side: str) -> tuple[int, int]:
    if side == "flat":
        return 1, m * n
    return (n, m) if is_transposed(m, n, side) else (m, n)


def oriented(stack: Tensor, side: str) -> Tensor:
    """The stack, with what is to be projected as its rows."""
    if side == "flat":
        return stack.reshape(len(stack), 1, -1)
    return stack.mT if is_transposed(stack.shape[1], stack.shape[2], side) else stack


def oriented_back(x: Tensor, shape: torch.Size, side: str) -> Tensor:
    if side == "flat":
        return x.reshape(shape)
    return x.mT if is_transposed(shape[1], shape[2], side) else x
