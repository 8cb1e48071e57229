"""Choosing terms of a sum by winner-take-all column-row sampling (arXiv:2305.15265)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Deterministic = float | Literal["adaptive"]
"""How many of the chosen terms are certain: "adaptive", or a share of them."""


def wta_crs_select(
    p: Tensor,
    k: int,
    deterministic: Deterministic = "adaptive",
    drop_tail: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Choose k of D terms and weights for them, so that the weighted sum has the expectation of the whole sum.

    The c terms of largest probability, together :math:`P`, are taken with weight 1. The others are drawn k - c times, independently
    and with replacement, in proportion to their probabilities, and weighted by

    .. math:: \frac{1 - P}{p_i\,(k - c)}.

    The mean is the whole sum for every c, as long as :math:`p_i > 0` wherever a term isn't zero. "adaptive" takes the c below k
    with the smallest :math:`(1 - P)/(k - c)`, the smaller one of two within 1e-12; the variance is then below that of c = 0
    (plain column-row sampling) wherever c > 0 and the probabilities are in proportion to the terms' sizes.

    Args:
        p: probabilities (D,); they are divided by their sum.
        k: terms to choose, 1 to D; k = D gives all terms with weight 1.
        deterministic: "adaptive", or the share of k that is taken for certain: ``c = int(deterministic * k)``. 0 is plain column-row
            sampling, 1 takes the k largest and is biased.
        drop_tail: where 1 - P is below it, drawn terms get weight 0: a small bias, which the authors' code accepts at 1e-3
            (default 0).
        generator: for the draws.

    Returns:
        Indices and weights (k,), the c certain ones first.

    Raises:
        ValueError: ``p`` isn't a vector of finite numbers of at least 0 with a positive sum, or another argument is out of range.

    Example:
        >>> indices, weights = wta_crs_select(torch.tensor([0.05, 0.6, 0.2, 0.1, 0.05]), k=3)
        >>> indices[0].item(), weights[0].item()  # one for certain, two drawn from the rest
        (1, 1.0)
    """
    _check(deterministic, drop_tail)
    if p.ndim != 1 or not bool(((p >= 0) & p.isfinite()).all()) or not bool(p.sum() > 0):
        raise ValueError("p must be a vector of finite probabilities of at least 0 with a positive sum")
    if not 1 <= k <= len(p):
        raise ValueError(f"k must be 1 to {len(p)}, the number of terms, not {k}")
    return _select(p, k, deterministic, drop_tail, generator)


def _select(
    p: Tensor, k: int, deterministic: Deterministic, drop_tail: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`wta_crs_select` without checks, with shapes that don't depend on numbers: an accelerator needn't wait.

    NaN among the probabilities gives weights of NaN.
    """
    if k == len(p):
        return torch.arange(k, device=p.device), torch.ones(k, dtype=torch.float64, device=p.device)
    rising, order = (p.double() / p.double().sum()).sort()
    below = rising.cumsum(0)
    left = below.flip(0)  # left[c]: what the c largest leave
    place = torch.arange(k, device=p.device)
    if deterministic == "adaptive":
        spread = left[:k] / (k - place)
        count = (spread <= spread.min() + 1e-12).int().argmax()
    else:
        count = torch.full((), int(deterministic * k), device=p.device)
    rest = left.gather(0, count[None])
    # 1 - rand lies in (0, 1], so that the first sum to reach it never belongs to a probability of 0
    uniform = 1 - torch.rand(k, generator=generator, dtype=torch.float64, device=p.device)
    drawn = torch.searchsorted(below, uniform * rest).clamp(max=len(p) - 1)
    weight = rest / (rising[drawn] * (k - count).clamp(min=1))
    weight = torch.where((rest == 0) | (rest < drop_tail), 0.0, weight)
    certain = place < count
    return torch.where(certain, order.flip(0)[:k], order[drawn]), torch.where(certain, 1.0, weight)


@dataclass(frozen=True)
class RowSampling:
    """The settings of a layer that keeps some of its rows; see :class:`thalweg.nn.WTACRSLinear`."""

    sample_ratio: float
    min_rows: int
    deterministic: Deterministic
    drop_tail: float
    floor: float

    def __post_init__(self) -> None:
        if not 0 < self.sample_ratio <= 1:
            raise ValueError(f"sample_ratio must be above 0 and at most 1, not {self.sample_ratio}")
        if self.min_rows < 1:
            raise ValueError(f"min_rows must be at least 1, not {self.min_rows}")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor must lie between 0 and 1, not {self.floor}")
        _check(self.deterministic, self.drop_tail)

    def rows_of(self, count: int) -> int:
        """How many of ``count`` rows are kept."""
        return min(max(int(count * self.sample_ratio), self.min_rows), count)

    def select(self, score: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Indices and weights (k,) of rows by a score of at least 0 (D,), of which a share is spread evenly."""
        total, even = score.sum(), torch.full_like(score, 1 / len(score))
        p = torch.where(total == 0, even, (1 - self.floor) * score / total + self.floor * even)
        return _select(p, k, self.deterministic, self.drop_tail)


def _check(deterministic: Deterministic, drop_tail: float) -> None:
    if deterministic != "adaptive" and not (isinstance(deterministic, (int, float)) and 0 <= deterministic <= 1):
        raise ValueError(f"deterministic must be 'adaptive' or a share between 0 and 1, not {deterministic!r}")
    if not 0 <= drop_tail < 1:
        raise ValueError(f"drop_tail must be at least 0 and below 1, not {drop_tail}")
