"""Noisy examples labelled by a random network, linear or of one hidden layer (arXiv:1710.03667)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class LinearProblem(NamedTuple):
    """A linear teacher and its samples.

    Args:
        X: samples as columns, entries of variance 1/N, ``(N, P)``.
        y: noisy targets, ``(P,)``.
        teacher: its weights, of variance 1, ``(N,)``. The expected squared error of weights w on a new noisy sample
            is ``|w - teacher|^2 / N + 1 / snr``.
    """

    X: Tensor
    y: Tensor
    teacher: Tensor


def linear_teacher(dim: int, samples: int, snr: float, *, generator: torch.Generator | None = None) -> LinearProblem:
    """Gaussian samples of a Gaussian linear teacher with Gaussian noise of variance 1/snr.

    Args:
        dim: N, weights.
        samples: P.
        snr: variance of the teacher's weights, which is that of its output, over that of the noise.
        generator: source of randomness.

    Raises:
        ValueError: a size or ``snr`` isn't positive.

    Example:
        >>> problem = linear_teacher(3, 5, 2.0)
        >>> problem.X.shape, problem.y.shape
        (torch.Size([3, 5]), torch.Size([5]))
    """
    if dim < 1 or samples < 1 or not snr > 0:
        raise ValueError(f"dim, samples and snr must be positive, not {dim}, {samples} and {snr}")
    X = torch.randn(dim, samples, generator=generator, dtype=torch.float64) / math.sqrt(dim)
    teacher = torch.randn(dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(samples, generator=generator, dtype=torch.float64) / math.sqrt(snr)
    return LinearProblem(X, X.T @ teacher + noise, teacher)


class ReluProblem(NamedTuple):
    """Noisy training samples and clean test samples of one ReLU teacher: ``(n, dim)`` and ``(n,)`` each."""

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor


def relu_teacher(
    dim: int,
    samples: int,
    snr: float,
    *,
    width: int = 30,
    tests: int = 2000,
    generator: torch.Generator | None = None,
) -> ReluProblem:
    r"""Samples of :math:`\sum_j a_j \max(0, W_j^\top x / \sqrt{\mathrm{dim}})` with normal a, W and x.

    The teacher's output is shifted and scaled to mean 0 and variance 1 on the test samples.

    Args:
        dim: coordinates of x.
        samples: for training, with noise of variance 1/snr on the targets.
        snr: variance of the teacher's output over that of the noise.
        width: hidden units.
        tests: samples without noise.
        generator: source of randomness.

    Raises:
        ValueError: a size or ``snr`` isn't positive.

    Example:
        >>> problem = relu_teacher(4, 6, 1.0)
        >>> problem.X.shape, round(problem.y_test.var(correction=0).item(), 6)
        (torch.Size([6, 4]), 1.0)
    """
    if min(dim, samples, width, tests) < 1 or not snr > 0:
        raise ValueError("dim, samples, width, tests and snr must be positive")
    x = torch.randn(samples + tests, dim, generator=generator)
    hidden = torch.randn(dim, width, generator=generator) / math.sqrt(dim)
    y = (x @ hidden).relu() @ torch.randn(width, generator=generator)
    y = (y - y[samples:].mean()) / y[samples:].std(correction=0)
    noise = torch.randn(samples, generator=generator) / math.sqrt(snr)
    return ReluProblem(x[:samples], y[:samples] + noise, x[samples:], y[samples:])
