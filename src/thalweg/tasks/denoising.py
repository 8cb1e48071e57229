"""Noisy points whose clean originals are to be guessed: a diffusion model's score as a regression (arXiv:2401.15604)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

T0, T = 0.05, 3.0
"""First and last time of the diffusion."""


class Noisy(NamedTuple):
    """Clean points and what the Ornstein-Uhlenbeck process has made of them.

    Args:
        clean: X_0, the labels, ``(n, d)``.
        t: times, ``(n,)``.
        x: X_t, ``(n, d)``.
    """

    clean: Tensor
    t: Tensor
    x: Tensor


def ring_of_discs(per_disc: int = 100, *, generator: torch.Generator | None = None) -> Tensor:
    """Points in discs of radius 0.1 around 8 centres on the unit circle, ``(8 * per_disc, 2)``.

    Example:
        >>> ring_of_discs(5).shape
        torch.Size([40, 2])
    """
    turn = torch.arange(8, dtype=torch.float64).repeat_interleave(per_disc) * (math.pi / 4)
    distance, angle = torch.rand(2, 8 * per_disc, generator=generator, dtype=torch.float64)
    inside = 0.1 * distance.sqrt(), 2 * math.pi * angle
    return torch.stack([turn.cos() + inside[0] * inside[1].cos(), turn.sin() + inside[0] * inside[1].sin()], 1)


def diffused(
    atoms: Tensor, n: int, t0: float = T0, t1: float = T, *, generator: torch.Generator | None = None
) -> Noisy:
    r"""Pairs of a point and its noisy version :math:`X_t = e^{-t/2} X_0 + \sqrt{1 - e^{-t}} Z` at a random time.

    Args:
        atoms: the data's distribution: each is as likely, ``(atoms, d)``.
        n: pairs.
        t0, t1: times are uniform between them.
        generator: source of randomness.

    Raises:
        ValueError: ``t0`` isn't above 0, where the score would be infinite, or not below ``t1``.

    Example:
        >>> diffused(torch.zeros(1, 2), 3).x.shape
        torch.Size([3, 2])
    """
    if not 0 < t0 < t1:
        raise ValueError(f"times need 0 < t0 < t1, not {t0} and {t1}")
    clean = atoms[torch.randint(len(atoms), (n,), generator=generator)]
    t = t0 + (t1 - t0) * torch.rand(n, generator=generator, dtype=atoms.dtype)
    noise = torch.randn(clean.shape, generator=generator, dtype=atoms.dtype)
    alpha = (-t / 2).exp().unsqueeze(1)
    return Noisy(clean, t, alpha * clean + (1 - alpha.square()).sqrt() * noise)


def exact_denoiser(atoms: Tensor, t: Tensor, x: Tensor, std: float = 0.0) -> Tensor:
    r"""The mean of the clean point given the noisy one, :math:`E[X_0 | X_t = x]`.

    With :math:`\alpha = e^{-t/2}`, :math:`h = 1 - \alpha^2` and :math:`v = h + \alpha^2 std^2`, centres c share x by
    the softmax of :math:`-\|x - \alpha c\|^2 / 2v`, and each says :math:`c + \alpha \, std^2 (x - \alpha c) / v`.

    Args:
        atoms: equally likely centres, ``(atoms, d)``.
        t: times, ``(n,)``.
        x: noisy points, ``(n, d)``.
        std: of a round Gaussian around each centre; 0 is the centres themselves.

    Returns:
        ``(n, d)``.

    Example:
        >>> two = torch.tensor([[-1.0], [1.0]])
        >>> exact_denoiser(two, torch.tensor([1.0, 1.0]), torch.tensor([[0.0], [3.0]]))
        tensor([[0.0000],
                [0.9937]])
    """
    alpha = (-t / 2).exp().unsqueeze(1)
    v = -torch.expm1(-t).unsqueeze(1) + (alpha * std).square()
    share = ((alpha * (x @ atoms.mT) - (alpha.square() / 2) * atoms.square().sum(1)) / v).softmax(1)
    mean = share @ atoms
    return mean + alpha * std**2 * (x - alpha * mean) / v


def features(t: Tensor, x: Tensor, t0: float = T0) -> Tensor:
    """What a network is given: the noisy point, the time since ``t0``, and a one for a bias, ``(n, d + 2)``."""
    return torch.cat([x, (t - t0).unsqueeze(1), torch.ones_like(t).unsqueeze(1)], 1)


def reverse_diffusion(
    score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    steps: int,
    t0: float = T0,
    t1: float = T,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Points at time ``t0``, by Euler's steps of the Ornstein-Uhlenbeck process in reverse.

    Each step of length :math:`\tau` adds :math:`\tau (x / 2 + s(t, x)) + \sqrt\tau \, Z`; times fall by equal factors.

    Args:
        score: s, called with times ``(n,)`` and points ``(n, d)``.
        x: where to start at ``t1``: draws of N(0, I), ``(n, d)``.
        steps: how many.
        t0, t1: last and first time.
        generator: source of randomness.

    Example:
        >>> start = torch.randn(4, 2)
        >>> reverse_diffusion(lambda t, x: -x, start, 10).shape  # the score of N(0, I), which stays as it is
        torch.Size([4, 2])
    """
    times = [t1 * (t0 / t1) ** (i / steps) for i in range(steps + 1)]
    for before, after in itertools.pairwise(times):
        t, tau = torch.full(x.shape[:1], before, dtype=x.dtype), before - after
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + tau * (x / 2 + score(t, x)) + math.sqrt(tau) * noise
    return x
