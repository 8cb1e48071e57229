"""Gradient flow of all modes of a deep linear network together, growing or shrinking (arXiv:1312.6120)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_STEP = 0.1
"""Runge-Kutta step in units of 1 / (largest curvature); the error of times is below 1e-4 of them."""


class ModeFlow(NamedTuple):
    """What :func:`mode_flow` gives.

    Args:
        times: evenly spaced, ``(n,)``; for infinite depth multiplied by the depth.
        strengths: of all modes at these times, ``(n, modes)``.
        excess: ``sum (u - s)^2 / sum s^2``, the excess loss over the zero network's, ``(n,)``.
        curvature: the largest that the flow passes, ``depth * u^(2 - 2/depth)`` at the larger of start and end.
    """

    times: Tensor
    strengths: Tensor
    excess: Tensor
    curvature: float


def mode_flow(
    s: Tensor, u0: float | Tensor, depth: float, *, tolerance: float = 0.01, steps: int = 100_000
) -> ModeFlow:
    r"""Integrate :math:`du/dt = L u^{2 - 2/L} (s - u)` for every mode until the excess is at most ``tolerance``.

    Unlike :func:`~thalweg.linalg.linear_network.mode_trajectory` it takes modes that shrink, :math:`u_0 > s`, as from
    an orthogonal start, where :math:`u_0 = 1`, and modes of :math:`s = 0`, which are unlearnt.

    A gradient step can't be much larger than the inverse of the curvature :math:`L u^{2 - 2/L}`, so the flow costs
    about ``times[-1] * curvature`` steps. That number stays finite as the depth grows.

    Args:
        s: singular values, at least 0 and not all 0, ``(modes,)``.
        u0: strengths at the start, positive, one or ``(modes,)``.
        depth: weight matrices L, at least 2, or ``math.inf``: ``du/dt = u^2 (s - u)`` in time multiplied by the depth.
        tolerance: excess to stop at, positive.
        steps: most Runge-Kutta steps to take, in :math:`\log u`.

    Raises:
        ValueError: arguments out of range, or the tolerance isn't met within ``steps``.

    Example:
        >>> import math
        >>> flow = mode_flow(torch.tensor([1.0]), 0.1, math.inf)
        >>> round(flow.times[-1].item() * flow.curvature)  # 1/u0 - 1/u + log(u (s - u0) / (u0 (s - u))), u = 0.9
        13
    """
    s = s.double()
    u0 = torch.as_tensor(u0, dtype=s.dtype, device=s.device).expand_as(s)
    if s.dim() != 1 or not len(s) or s.min() < 0 or s.max() == 0 or u0.min() <= 0 or depth < 2 or tolerance <= 0:
        raise ValueError("s must be at least 0 and not all 0, u0 and tolerance positive, and depth at least 2")
    factor = 1.0 if math.isinf(depth) else float(depth)
    curvature = factor * torch.maximum(s, u0).max().item() ** (2 - 2 / depth)
    h, v = _STEP / curvature, u0.log()

    def rate(v: Tensor) -> Tensor:
        return factor * ((1 - 2 / depth) * v).exp() * (s - v.exp())

    course, excess = [u0], [_excess(u0, s)]
    while excess[-1] > tolerance:
        if len(course) > steps:
            raise ValueError(f"the excess is still {excess[-1]:.3g} after {steps} steps: raise tolerance or steps")
        k1 = rate(v)
        k2 = rate(v + h / 2 * k1)
        k3 = rate(v + h / 2 * k2)
        v = v + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(v + h * k3))
        course.append(v.exp())
        excess.append(_excess(course[-1], s))
    times = h * torch.arange(len(course), dtype=s.dtype, device=s.device)
    return ModeFlow(times, torch.stack(course), torch.tensor(excess, dtype=s.dtype, device=s.device), curvature)


def _excess(u: Tensor, s: Tensor) -> float:
    return ((u - s).square().sum() / s.square().sum()).item()
