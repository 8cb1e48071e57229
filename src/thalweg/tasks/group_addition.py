"""Addition in a finite abelian group, all of whose pairs are known: modular addition and its relatives (arXiv:2509.21519)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def group_table(order: int | Sequence[int]) -> Tensor:
    r"""All pairs of elements and their sum, one row for each: (a, b, a + b).

    Args:
        order: M for the integers modulo M, or several for their product; an element of the product has the number
            :math:`a_1 + M_1 (a_2 + M_2 (a_3 + \dots))`.

    Returns:
        int64, ``(|G|^2, 3)``, first element slowest.

    Raises:
        ValueError: fewer than three elements, or a factor below 1.

    Example:
        >>> group_table(3)[4:6]
        tensor([[1, 1, 2],
                [1, 2, 0]])
        >>> group_table((2, 2))[[5, 6]]  # every element is its own inverse
        tensor([[1, 1, 0],
                [1, 2, 3]])
    """
    factors = (order,) if isinstance(order, int) else tuple(order)
    size = math.prod(factors)
    if size < 3 or min(factors) < 1:
        raise ValueError(f"a group of at least three elements is needed, not of order {order}")
    a, b = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    total, place = torch.zeros_like(a), 1
    for factor in factors:
        total += (a // place + b // place) % factor * place
        place *= factor
    return torch.stack([a, b, total], 1)


def split_pairs(table: Tensor, share: float, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """The rows of a table in random order, cut in two: pairs to train on, and those to be worked out.

    Args:
        table: of :func:`group_table`.
        share: of the rows that come first, strictly between 0 and 1; their number is rounded.
        generator: source of randomness.

    Raises:
        ValueError: ``share`` is out of range, or leaves a part empty.

    Example:
        >>> from thalweg.tasks.group_addition import group_table, split_pairs
        >>> train, test = split_pairs(group_table(5), 0.6)
        >>> len(train), len(test)
        (15, 10)
    """
    first = round(share * len(table)) if 0 < share < 1 else 0
    if not 0 < first < len(table):
        raise ValueError(f"share must lie between 0 and 1 and leave rows in both parts, not {share}")
    mixed = table[torch.randperm(len(table), generator=generator)]
    return mixed[:first], mixed[first:]


def critical_share(order: int, coefficient: float = 2.7482) -> float:
    r"""The share of all :math:`M^2` pairs above which addition modulo M is learnt, :math:`c \log(M) / M`.

    So about :math:`c\, M \log M` pairs are enough. The form is the theory's; the coefficient is an empirical one of the authors', for
    their training. It may come out above 1, where the law has nothing to say.

    Args:
        order: M.
        coefficient: c.

    Example:
        >>> round(critical_share(127), 4), round(critical_share(31), 4)
        (0.1048, 0.3044)
    """
    return coefficient * math.log(order) / order
