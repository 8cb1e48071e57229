"""Regression on the square of one direction of Gaussian inputs (arXiv:2310.06110)."""

from __future__ import annotations

import torch
from torch import Tensor


def single_index_quadratic(
    n: int, dim: int, *, beta: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Inputs :math:`x \sim N(0, I / D)` and targets :math:`y = \frac12 (\beta \cdot x)^2`, whose mean square is 3/4.

    Args:
        n: examples.
        dim: D.
        beta: the direction, ``(D,)``; ``None`` draws one of length :math:`\sqrt D`.
        generator: source of randomness.

    Returns:
        Inputs, float64 of shape (n, dim), targets of shape (n,), and beta.

    Raises:
        ValueError: no examples or no inputs, or a beta of another size.

    Example:
        >>> x, y, beta = single_index_quadratic(100, 20)
        >>> x.shape, y.shape, round(beta.norm().item() ** 2, 6)
        (torch.Size([100, 20]), torch.Size([100]), 20.0)
    """
    if n < 1 or dim < 1 or (beta is not None and beta.shape != (dim,)):
        raise ValueError(f"at least one example and one input are needed, and beta of that size, not {n} and {dim}")
    if beta is None:
        drawn = torch.randn(dim, generator=generator, dtype=torch.float64)
        beta = drawn * (dim**0.5 / drawn.norm())
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64) / dim**0.5
    return x, (x @ beta.to(x)).square() / 2, beta
