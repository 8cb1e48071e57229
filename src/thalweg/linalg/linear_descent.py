r"""Gradient descent of many deep linear networks at once, without passing over data (arXiv:1312.6120).

With whitened inputs, :math:`E[x x^\top] = I`, the loss, the mean over examples of :math:`\frac12 \|y - W x\|^2` with
:math:`W = W_L \cdots W_1`, is a constant plus the *excess*

.. math:: \tfrac12 \|W - C\|_F^2, \qquad C = E[y x^\top],

so the gradients need the correlation C alone:
:math:`\partial / \partial W_l = (W_L \cdots W_{l+1})^\top (W - C) (W_{l-1} \cdots W_1)^\top`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DIVERGED = 1e4
"""A network whose excess is this many times the zero network's is given up."""


def descent_step_(weights: Sequence[Tensor], correlation: Tensor, lr: Tensor | float) -> Tensor:
    """One full-batch gradient step of every network, in place.

    The cost grows with the network's outputs, not with its inputs: every product has ``out`` rows.

    Args:
        weights: the matrices in the order in which data passes them, each ``(batch, out_l, in_l)``.
        correlation: the target C, ``(out, in)`` or ``(batch, out, in)``.
        lr: step size, a number or ``(batch,)``.

    Returns:
        Excess before the step, ``(batch,)``.

    Example:
        >>> W1, W2 = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.5)
        >>> descent_step_([W1, W2], torch.ones(1, 1), lr=0.1)  # (1 - 0.25)^2 / 2
        tensor([0.2812])
        >>> W1.item()  # 0.5 + 0.1 * 0.5 * 0.75
        0.5375000238418579
    """
    above = [weights[-1]]
    for weight in reversed(weights[:-1]):
        above.append(above[-1] @ weight)
    error = above.pop() - correlation
    step = torch.as_tensor(lr, dtype=error.dtype, device=error.device).reshape(-1, 1, 1)
    below = step * error
    for i, weight in enumerate(weights):
        further = below @ weight.mT if i + 1 < len(weights) else below
        if above:
            weight.baddbmm_(above.pop().mT, below, alpha=-1)
        else:
            weight.sub_(below)
        below = further
    return error.square().sum((-2, -1)) / 2


@dataclass(frozen=True)
class Descent:
    """Outcome of :func:`descend`, on the CPU.

    Args:
        steps: gradient steps until the tolerance was met, ``(batch,)``, float64; infinite if it never was.
        course: excess after 0, 1, ... steps over the zero network's, ``(cap + 1, batch)``, float64; NaN once a network
            is done or given up.
    """

    steps: Tensor
    course: Tensor


def descend(
    weights: Sequence[Tensor], correlation: Tensor, lr: Tensor, *, tolerance: float = 0.01, cap: int = 300
) -> Descent:
    """Train every network until its excess is at most ``tolerance`` times the zero network's.

    Networks that arrive, or whose excess isn't finite or exceeds 10^4 times the zero network's, leave the batch. The
    weights given are not changed.

    Args:
        weights: as in :func:`descent_step_`.
        correlation: the target C, ``(out, in)``, not zero.
        lr: step size of every network, ``(batch,)``.
        tolerance: share of the zero network's excess, positive.
        cap: most steps to take.

    Raises:
        ValueError: the correlation is zero, or ``tolerance`` or ``cap`` isn't positive.

    Example:
        >>> done = descend([torch.zeros(2, 1, 1)], torch.ones(1, 1), torch.tensor([0.5, 0.001]))
        >>> done.steps.tolist()  # the error is halved in each step: 2^-8 < 0.01 of the excess after 4
        [4.0, inf]
    """
    scale = correlation.square().sum().item() / 2
    if not (scale > 0 and tolerance > 0 and cap > 0):
        raise ValueError("the correlation must not be zero, and tolerance and cap must be positive")
    batch = weights[0].shape[0]
    current, rate = [weight.clone() for weight in weights], lr.clone()
    alive = torch.arange(batch, device="cpu")
    steps = torch.full((batch,), torch.inf, dtype=torch.float64, device="cpu")
    course = torch.full((cap + 1, batch), torch.nan, dtype=torch.float64, device="cpu")
    for step in range(cap + 1):
        excess = descent_step_(current, correlation, rate).to("cpu", torch.float64) / scale
        course[step, alive] = excess
        arrived = excess <= tolerance
        steps[alive[arrived]] = step
        going = ~arrived & (excess <= DIVERGED)  # false for NaN too
        if not going.all():
            alive, kept = alive[going], going.to(rate.device)
            current, rate = [weight[kept] for weight in current], rate[kept]
        if not len(alive):
            break
    return Descent(steps, course)
