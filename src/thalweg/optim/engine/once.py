"""Numbers that follow from sums over tensors, worked out once and not again for every element."""

from __future__ import annotations

from torch import Tensor

from thalweg.optim.engine.tracing import is_traced

_COPIES = 16
"""Reductions of up to 8 numbers are unrolled, and what is unrolled is worked out again wherever it is used."""


def once(number: Tensor) -> Tensor:
    """``number`` as it is; a compiled pass keeps it instead of repeating its roots and divisions along with every element.

    Inductor stores results of reductions only, so this is one: the largest of equal numbers.

    Args:
        number: one number, or a few (one a row), much smaller than the tensors that it will scale.

    Example:
        >>> import torch
        >>> from thalweg.optim.engine.once import once
        >>> once(torch.tensor(4.0).sqrt())
        tensor(2.)
    """
    if not is_traced():
        return number
    return number.expand(_COPIES, *number.shape).amax(0)
