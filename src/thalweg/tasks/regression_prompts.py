"""Prompts for learning in context: a few examples of a random function, and a query (arXiv:2307.03576, 2212.07677)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Prompts(NamedTuple):
    """A batch of regression problems.

    Args:
        X: examples' inputs, ``(batch, n, dim)``.
        y: their targets, with noise, ``(batch, n)``.
        xq: the query's input, ``(batch, dim)``.
        yq: the query's target, without noise, ``(batch,)``.
    """

    X: Tensor
    y: Tensor
    xq: Tensor
    yq: Tensor

    def tokens(self) -> Tensor:
        """Tokens ``(x_i, y_i)`` and last the query ``(x_q, 0)``: ``(batch, n + 1, dim + 1)``."""
        inputs = torch.cat([self.X, self.xq.unsqueeze(-2)], -2)
        targets = torch.cat([self.y, torch.zeros_like(self.yq).unsqueeze(-1)], -1)
        return torch.cat([inputs, targets.unsqueeze(-1)], -1)


def linear_prompts(
    batch: int,
    n: int,
    dim: int,
    *,
    noise_var: float = 0.0,
    cov: Tensor | None = None,
    weight_cov: Tensor | None = None,
    inputs: Literal["normal", "uniform"] = "normal",
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Prompts:
    r"""Random linear functions :math:`y = w^\top x + \varepsilon` with normal weights.

    Args:
        batch: problems.
        n: examples in each.
        dim: length of the inputs.
        noise_var: variance of the noise on the examples' targets.
        cov: covariance of normal inputs, ``(dim, dim)``; ``None`` is the identity.
        weight_cov: covariance of the weights likewise.
        inputs: "normal", or "uniform" on [-1, 1] in every coordinate, which takes no ``cov``.
        generator: source of randomness, on the CPU.
        dtype: of everything.

    Raises:
        ValueError: an unknown law of inputs, or ``cov`` with uniform ones.

    Example:
        >>> prompts = linear_prompts(4, 10, 3)
        >>> prompts.X.shape, prompts.tokens().shape
        (torch.Size([4, 10, 3]), torch.Size([4, 11, 4]))
    """
    if inputs not in ("normal", "uniform"):
        raise ValueError(f"inputs must be 'normal' or 'uniform', not {inputs!r}")
    if inputs == "uniform":
        if cov is not None:
            raise ValueError("uniform inputs take no cov")
        x = torch.rand(batch, n + 1, dim, generator=generator, dtype=dtype) * 2 - 1
    else:
        x = _coloured(torch.randn(batch, n + 1, dim, generator=generator, dtype=dtype), cov)
    w = _coloured(torch.randn(batch, dim, generator=generator, dtype=dtype), weight_cov)
    return _prompts(x, (x @ w.unsqueeze(-1)).squeeze(-1), noise_var, generator)


def relu_prompts(
    batch: int,
    n: int,
    dim: int,
    *,
    units: int = 16,
    noise_var: float = 0.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
) -> Prompts:
    r"""Random ReLU networks :math:`g(x) = \sum_k a_k \max(0, w_k^\top x)` of standard normal inputs.

    Args:
        batch, n, dim, noise_var, generator, dtype: as in :func:`linear_prompts`.
        units: terms K of the sum; :math:`w_k \sim N(0, I)` and :math:`a_k \sim N(0, 1 / K)`.

    Example:
        >>> relu_prompts(4, 10, 3).y.shape
        torch.Size([4, 10])
    """
    x = torch.randn(batch, n + 1, dim, generator=generator, dtype=dtype)
    w = torch.randn(batch, dim, units, generator=generator, dtype=dtype)
    a = torch.randn(batch, units, generator=generator, dtype=dtype) / units**0.5
    return _prompts(x, ((x @ w).relu() @ a.unsqueeze(-1)).squeeze(-1), noise_var, generator)


def _prompts(x: Tensor, y: Tensor, noise_var: float, generator: torch.Generator | None) -> Prompts:
    """The last input becomes the query; the examples' targets get noise."""
    noise = torch.randn(y[:, :-1].shape, generator=generator, dtype=y.dtype) * noise_var**0.5
    return Prompts(x[:, :-1], y[:, :-1] + noise, x[:, -1], y[:, -1])


def _coloured(normal: Tensor, cov: Tensor | None) -> Tensor:
    return normal if cov is None else normal @ torch.linalg.cholesky(cov.to(normal.dtype)).mT
