r"""The smallest model with opposing outliers: a sign that the target doesn't depend on (arXiv:2311.04163).

Inputs have a bulk part x of variance :math:`\sigma^2` and an outlier coordinate s, which is A or -A with probability p/2 each and 0
otherwise; the target is :math:`\beta x + \kappa |s|`, even in s, and the model :math:`c\,(b x + o s)` is odd. With :math:`k = p A^2`
the expected loss (half the squared error) is

.. math:: L = \tfrac{\sigma^2}{2} (c b - \beta)^2 + \tfrac k2 (c^2 o^2 + \kappa^2).

Both signs pull o in opposite directions and balance at o = 0, across a valley of curvature :math:`k c^2`; learning
:math:`\beta` raises c, until gradient descent can't stay in the valley.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class ToyRun(NamedTuple):
    """Courses of :func:`run_toy`, ``(steps + 1, ...)`` each.

    Args:
        loss: the expected loss.
        up, down: loss of an outlier of either sign.
        valley: the curvature k c^2 across the valley.
        weights: c, b and o, ``(steps + 1, 3, ...)``.
    """

    loss: Tensor
    up: Tensor
    down: Tensor
    valley: Tensor
    weights: Tensor


def run_toy(
    beta: Tensor,
    lr: Tensor,
    steps: int,
    *,
    p: float = 0.05,
    amplitude: float = math.sqrt(80),
    kappa: float = 0.5,
    sigma: float = 1.0,
    start: tuple[float, float, float] = (1.0, 0.02, 0.3),
) -> ToyRun:
    """Gradient descent on the expected loss, many settings together.

    Args:
        beta, lr: targets and step sizes, ``(...)``.
        steps: to take.
        p, amplitude, kappa, sigma: see above; k = p amplitude^2.
        start: c, b and o.

    Example:
        >>> found = run_toy(torch.tensor(12.0), torch.tensor(0.001), 6000)
        >>> round(found.valley[-1].item(), 2), round(found.loss[-1].item(), 3)  # descent without a spike
        (49.82, 0.5)
    """
    beta, lr = torch.broadcast_tensors(
        torch.as_tensor(beta, dtype=torch.float64), torch.as_tensor(lr, dtype=torch.float64)
    )
    k = p * amplitude**2
    c, b, o = (torch.full_like(beta, value) for value in start)
    rows = []
    for step in range(steps + 1):
        rows.append(torch.stack([c, b, o]))
        if step < steps:
            miss = c * b - beta
            slopes = sigma**2 * miss * b + k * c * o.square(), sigma**2 * c * miss, k * c.square() * o
            c, b, o = (weight - lr * slope for weight, slope in zip((c, b, o), slopes, strict=True))
    weights = torch.stack(rows)
    c, b, o = weights.unbind(1)
    loss = sigma**2 / 2 * (c * b - beta).square() + k / 2 * ((c * o).square() + kappa**2)
    up, down = (amplitude**2 * (sign * c * o - kappa).square() / 2 for sign in (1, -1))
    return ToyRun(loss, up, down, k * c.square(), weights)


def expected_valley(
    beta: Tensor,
    *,
    p: float = 0.05,
    amplitude: float = math.sqrt(80),
    start: tuple[float, float, float] = (1.0, 0.02, 0.3),
) -> Tensor:
    r"""Curvature across the valley where gradient flow ends, in closed form.

    The flow keeps :math:`q = c^2 - b^2 - o^2` and ends at :math:`c b = \beta`, o = 0: so :math:`c^4 - q c^2 - \beta^2 = 0`, and the
    curvature is :math:`k c^2 = \frac k2 (q + \sqrt{q^2 + 4 \beta^2})`. Descent spikes where that is above 2 / lr.

    Args:
        beta: targets, ``(...)``.
        p, amplitude, start: as in :func:`run_toy`.

    Example:
        >>> round(expected_valley(torch.tensor(12.0)).item(), 3)
        49.854
    """
    c, b, o = start
    q = c**2 - b**2 - o**2
    return p * amplitude**2 / 2 * (q + (q**2 + 4 * torch.as_tensor(beta, dtype=torch.float64).square()).sqrt())
