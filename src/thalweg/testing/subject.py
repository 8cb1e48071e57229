"""The optimizer under test, and small problems for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

MIXED = ((4, 3), (3,), (), (2, 3, 2, 2))
"""Shapes of a matrix, a vector, a scalar and a convolution."""


class NotApplicable(Exception):
    """The check says nothing about this optimizer; the message says why."""


@dataclass(frozen=True)
class Subject:
    """A class of optimizers, its settings, and shapes of parameters that it takes.

    Args:
        make: ``make(params, **settings)`` gives an optimizer.
        settings: keyword arguments for ``make``.
        shapes: shapes of parameters.
    """

    make: Callable[..., torch.optim.Optimizer]
    settings: dict[str, Any] = field(default_factory=dict)
    shapes: Sequence[tuple[int, ...]] = MIXED

    def optimizer(self, params: Iterable[Any], **settings: Any) -> torch.optim.Optimizer:
        """A new optimizer; ``settings`` are put over the subject's own."""
        return self.make(params, **{**self.settings, **settings})

    def parameters(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[nn.Parameter]:
        """Parameters of the subject's shapes, the same numbers at each call."""
        generator = torch.Generator().manual_seed(seed)
        numbers = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes]
        return [nn.Parameter(x.to(dtype)) for x in numbers]

    def pair(self, **settings: Any) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        """Parameters and an optimizer over them."""
        params = self.parameters()
        return params, self.optimizer(params, **settings)

    def option(self, **settings: Any) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
        """As :meth:`pair` with an option that not every optimizer has.

        Raises:
            NotApplicable: it has not.
        """
        try:
            return self.pair(**settings)
        except TypeError as error:
            raise NotApplicable(f"takes no {', '.join(settings)}") from error


def gradients(params: Sequence[Tensor], step: int, scale: float = 1.0) -> list[Tensor]:
    """Random gradients that depend on the step and the parameter's place alone."""
    found = []
    for place, param in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * step + place)
        dtype = torch.complex128 if param.is_complex() else torch.float64
        found.append((scale * torch.randn(param.shape, generator=generator, dtype=dtype)).to(param.dtype))
    return found


def train(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], first: int, last: int, scale: float = 1.0
) -> None:
    """Steps ``first`` to ``last - 1`` with the random gradients of those numbers, torch's own generator seeded with them too."""
    for step in range(first, last):
        torch.manual_seed(step)
        for param, gradient in zip(params, gradients(params, step, scale), strict=True):
            param.grad = gradient
        optimizer.step()


def copies(params: Iterable[Tensor]) -> list[Tensor]:
    """The numbers as they are now."""
    return [param.detach().clone() for param in params]


def identical(a: Iterable[Tensor], b: Iterable[Tensor]) -> bool:
    """Whether tensors agree bit by bit, dtypes included; NaN equals NaN."""
    return all(
        x.dtype == y.dtype and x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())
        for x, y in zip(a, b, strict=True)
    )


def close(a: Iterable[Tensor], b: Iterable[Tensor], rtol: float = 1e-4, atol: float = 1e-5) -> bool:
    """Whether tensors agree up to rounding."""
    return all(torch.allclose(x, y, rtol=rtol, atol=atol) for x, y in zip(a, b, strict=True))


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All tensors kept per parameter that are as large as it, or at least not scalars such as a step count."""
    return [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor) and v.ndim > 0]
