"""How many examples a gradient must be the mean of, so that its noise is small beside it (arXiv:2402.11215)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GradientNoise:
    r"""Mean and scatter of per-example gradients :math:`g_i`, as the noise tests need them.

    Args:
        count: examples b, two or more.
        mean: :math:`\bar g`, shape (P,).
        variance: of every coordinate, with divisor b - 1, shape (P,).
        inner_variance: of :math:`\langle g_i, \bar g\rangle`, with divisor b - 1; None where it wasn't worked out.

    Example:
        >>> from thalweg.data import GradientMoments
        >>> moments = GradientMoments()
        >>> moments.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        >>> noise = moments.noise()
        >>> noise.count, noise.mean.tolist(), noise.variance.tolist()
        (2, [2.0, 1.0], [2.0, 2.0])
    """

    count: int
    mean: Tensor
    variance: Tensor
    inner_variance: float | None = None

    def norm(self, eta: float) -> float:
        r"""Examples that the norm test asks for: :math:`\|\mathrm{Var}\|_1 / (\eta^2 \|\bar g\|^2)`."""
        return _ratio(self.variance.sum().item(), eta**2 * self._size)

    def coordinate(self, eta: float) -> float:
        r"""The same coordinate by coordinate, the largest of all: :math:`\max_j \mathrm{Var}_j / (\eta^2 \bar g_j^2)`."""
        moving = self.variance != 0
        return (self.variance[moving] / (eta * self.mean[moving]).square()).max().item() if bool(moving.any()) else 0.0

    def inner_product(self, theta: float) -> float:
        r"""Examples for the inner-product test: :math:`\mathrm{Var}\langle g_i, \bar g\rangle / (\theta^2 \|\bar g\|^4)`."""
        return _ratio(self._inner, theta**2 * self._size**2)

    def orthogonality(self, nu: float) -> float:
        r"""Examples for the test of what stands orthogonal to the mean: :math:`o / (\nu^2 \|\bar g\|^2)`.

        :math:`o` is the variance of :math:`g_i - \frac{\langle g_i, \bar g\rangle}{\|\bar g\|^2} \bar g`; it is what the inner
        products leave over of the total variance.
        """
        along = self._inner / self._size if self._size > 0 else 0.0
        return _ratio(max(0.0, self.variance.sum().item() - along), nu**2 * self._size)

    @property
    def _size(self) -> float:
        return self.mean.square().sum().item()

    @property
    def _inner(self) -> float:
        if self.inner_variance is None:
            raise ValueError("the variance of the inner products wasn't worked out")
        return self.inner_variance


class GradientMoments:
    """Gathers mean and variance of rows that come in pieces, without the cancellation of sums of squares.

    Example:
        >>> moments = GradientMoments()
        >>> moments.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        >>> moments.add(torch.tensor([[2.0, 1.0], [-2.0, 1.0]]))
        >>> moments.noise().mean
        tensor([1., 1.])
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._scatter = torch.zeros(())

    def add(self, rows: Tensor) -> None:
        """Take rows ``(n, P)`` in."""
        count, mean = len(rows), rows.mean(0)
        scatter, shift = (rows - mean).square().sum(0), mean - self._mean
        both = self.count + count
        self._mean = self._mean + shift * (count / both)
        self._scatter = self._scatter + scatter + shift.square() * (self.count * count / both)
        self.count = both

    @property
    def mean(self) -> Tensor:
        """Mean of the rows so far, ``(P,)``."""
        return self._mean

    def noise(self, inner_products: Sequence[Tensor] | None = None) -> GradientNoise:
        """Mean and variance; ``inner_products``: of every row with the mean, in pieces.

        Raises:
            ValueError: fewer than two rows have no variance.
        """
        if self.count < 2:
            raise ValueError(f"the variance of gradients needs two examples or more, not {self.count}")
        inner = None if inner_products is None else torch.cat(list(inner_products)).double().var().item()
        return GradientNoise(self.count, self._mean, self._scatter / (self.count - 1), inner)


def _ratio(noise: float, signal: float) -> float:
    """Infinity for noise without signal; nothing is asked for where there is no noise."""
    if noise == 0:
        return 0.0
    return noise / signal if signal != 0 else math.inf
