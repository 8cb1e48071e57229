"""Small tasks of the kind that animals are trained on: signals over time, and a choice at the end (arXiv:2310.08513)."""

from __future__ import annotations

import torch
from torch import Tensor


def two_alternatives(
    n: int, *, steps: int = 8, noise: float = 0.5, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Two noisy channels, one of which has mean 1: which?

    Args:
        n: trials.
        steps: length of a trial.
        noise: standard deviation of every channel at every step.
        generator: source of randomness.

    Returns:
        Inputs, float32 of shape (n, steps, 2), and the channel, int64 of shape (n,).

    Example:
        >>> x, y = two_alternatives(5, noise=0.0)
        >>> torch.equal(x[:, 3].argmax(1), y)
        True
    """
    chosen = torch.randint(2, (n,), generator=generator)
    x = noise * torch.randn(n, steps, 2, generator=generator)
    x[torch.arange(n), :, chosen] += 1
    return x, chosen


def delayed_match(
    n: int, *, delay: int = 5, noise: float = 0.1, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """A cue in one of two channels, a pause, a second cue, then a third channel asks: was it the same one?

    Args:
        n: trials.
        delay: empty steps between the cues.
        noise: standard deviation of the two cue channels at every step.
        generator: source of randomness.

    Returns:
        Inputs, float32 of shape (n, delay + 3, 3), and 1 for a match, 0 for none, int64 of shape (n,).

    Example:
        >>> x, y = delayed_match(4, noise=0.0)
        >>> torch.equal((x[:, 0, :2] * x[:, 6, :2]).sum(1).long(), y)
        True
    """
    if delay < 0:
        raise ValueError(f"delay must be at least 0, not {delay}")
    first, second = torch.randint(2, (2, n), generator=generator)
    x = torch.zeros(n, delay + 3, 3)
    x[..., :2] = noise * torch.randn(n, delay + 3, 2, generator=generator)
    rows = torch.arange(n)
    x[rows, 0, first] += 1
    x[rows, delay + 1, second] += 1
    x[:, -1, 2] = 1
    return x, (first == second).long()
