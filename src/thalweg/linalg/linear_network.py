"""How deep linear networks learn: the exact course of gradient flow, mode by mode (arXiv:1312.6120).

With whitened inputs, ``E[x x^T] = I``, and the correlation ``E[y x^T] = U S V^T``, a linear network whose matrices start
aligned with ``U`` and ``V`` and balanced learns every singular value ``s`` on its own. ``depth`` counts weight matrices.
The strength ``u`` of a mode, the product of its ``depth`` equal factors, obeys::

    tau du/dt = depth * u^(2 - 2 / depth) * (s - u)

Loss: the mean over examples of ``1/2 ||y - W x||^2``; one gradient step of size ``lr`` is ``lr`` units of time at
``tau = 1``. Infinite depth means ``tau du/dt = u^2 (s - u)``, with time multiplied by the depth.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STRIDE = 0.02
"""Longest Runge-Kutta step, in units of logit(u / s); error below 1e-8."""

_SIMPSON_INTERVALS = 4000


def mode_trajectory(s: float, u0: float, t: Tensor, tau: float = 1.0, depth: float = 2) -> Tensor:
    """Strength of one mode at the times ``t``.

    For two matrices ``u(t) = s e^(2st/tau) / (e^(2st/tau) - 1 + s/u0)``. For other depths the equation is integrated by
    Runge-Kutta in ``v = log(u / (s - u))``, where its rate ``depth * s * u^(1 - 2/depth) / tau`` is bounded.

    Args:
        s: singular value of the mode.
        u0: strength at time 0, between 0 and ``s``.
        t: times, at least 0, any shape and order.
        tau: time constant.
        depth: weight matrices, 2 or more, or ``math.inf``.

    Returns:
        Strengths, float64, of ``t``'s shape.

    Raises:
        ValueError: ``u0`` is not between 0 and ``s``, ``depth`` is below 2, or a time is negative.

    Example:
        >>> [round(u, 6) for u in mode_trajectory(3.0, 0.01, torch.tensor([0.5, 1.0])).tolist()]
        [0.188842, 1.723002]
    """
    _check(s, u0, depth)
    times = torch.as_tensor(t, dtype=torch.float64)
    if times.numel() and times.min() < 0:
        raise ValueError(f"times must be at least 0, not {times.min().item()}")
    start = math.log(u0 / (s - u0))
    if depth == 2:
        return s * torch.sigmoid(start + 2 * s * times / tau)
    ordered, inverse = torch.unique(times, return_inverse=True)
    v, now, course = start, 0.0, []
    for time in ordered.tolist():
        v = _advance(v, (time - now) / tau, s, depth)
        now = time
        course.append(v)
    return s * torch.sigmoid(torch.tensor(course, dtype=torch.float64)[inverse])


def learning_time(s: float, u0: float, uf: float, tau: float = 1.0, depth: float = 2) -> float:
    """Time in which one mode grows from ``u0`` to ``uf``.

    ``tau/2s * ln(uf (s - u0) / (u0 (s - uf)))`` for two matrices, and for infinite depth, in time multiplied by the
    depth, ``tau * (ln(uf (s - u0) / (u0 (s - uf))) / s^2 + 1 / (s u0) - 1 / (s uf))``; between them by Simpson's rule.

    Args:
        s: singular value of the mode.
        u0: strength at the start, between 0 and ``s``.
        uf: strength at the end, between ``u0`` and ``s``.
        tau: time constant.
        depth: weight matrices, 2 or more, or ``math.inf``.

    Raises:
        ValueError: the strengths are not ordered ``0 < u0 <= uf < s``, or ``depth`` is below 2.

    Example:
        >>> round(learning_time(1.0, 0.5, 0.99), 4)
        2.2976
    """
    _check(s, u0, depth)
    if not u0 <= uf < s:
        raise ValueError(f"uf must lie between u0 = {u0} and s = {s}, not {uf}")
    first, last = math.log(u0 / (s - u0)), math.log(uf / (s - uf))
    if depth == 2:
        return tau * (last - first) / (2 * s)
    if math.isinf(depth):
        return tau * ((last - first) / s**2 + 1 / (s * u0) - 1 / (s * uf))
    v = torch.linspace(first, last, _SIMPSON_INTERVALS + 1, dtype=torch.float64)
    weights = torch.full_like(v, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    inverse_rate = (s * torch.sigmoid(v)) ** (2 / depth - 1) / (depth * s)
    return tau * (weights @ inverse_rate).item() * (last - first) / (3 * _SIMPSON_INTERVALS)


def _rate(v: float, s: float, depth: float) -> float:
    u = s / (1 + math.exp(-v)) if v > -700 else 0.0
    factor = 1.0 if math.isinf(depth) else depth
    return factor * s * u ** (1 - 2 / depth)


def _advance(v: float, duration: float, s: float, depth: float) -> float:
    """Integrate ``dv/dt = rate(v)`` for ``duration``; the rate is largest, ``depth * s^(2 - 2/depth)``, at the end."""
    if duration == 0:
        return v
    factor = 1.0 if math.isinf(depth) else depth
    count = max(1, math.ceil(duration * factor * s ** (2 - 2 / depth) / _STRIDE))
    h = duration / count
    for _ in range(count):
        k1 = _rate(v, s, depth)
        k2 = _rate(v + h / 2 * k1, s, depth)
        k3 = _rate(v + h / 2 * k2, s, depth)
        k4 = _rate(v + h * k3, s, depth)
        v += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return v


def _check(s: float, u0: float, depth: float) -> None:
    if not 0 < u0 < s:
        raise ValueError(f"u0 must lie between 0 and s = {s}, not {u0}")
    if depth < 2:
        raise ValueError(f"depth counts weight matrices and must be at least 2, not {depth}")
