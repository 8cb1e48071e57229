"""Sums over whole tensors that are read for nothing else."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

from torch import Tensor

from thalweg.optim.engine.tracing import is_traced

_PLACES = 4


def total(term: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """The sum of ``term(*tensors)`` over all elements; a compiled pass reads at four places at once, which takes a third less time.

    A core waits for memory, and fetches ahead along each sequence that it sees being read. Where a pass also writes in the loop that
    sums, plain ``term(*tensors).sum()`` is better: only loops over equal ranges become one.

    Args:
        term: works on each element alone.
        tensors: of one shape.

    Returns:
        Tensor without dimensions.

    Example:
        >>> import torch
        >>> from thalweg.optim.engine.totals import total
        >>> total(torch.square, torch.tensor([3.0, 4.0]))
        tensor(25.)
    """
    cut = tensors[0].numel() % _PLACES == 0 and all(tensor.is_contiguous() for tensor in tensors)
    if not (cut and is_traced()):
        return term(*tensors).sum()
    parts = [tensor.view(_PLACES, -1).unbind() for tensor in tensors]
    return functools.reduce(operator.add, map(term, *parts)).sum()
