r"""Lower tails of squared errors, as logarithms: far below what a float can hold as a probability (arXiv:2406.15941).

The squared error of a Gaussian guess is a weighted sum of squares, :math:`Q = \sum_i \lambda_i (z_i + b_i)^2` with standard normal
:math:`z_i`. Its distribution function is worked out by a saddle point; that of a gamma distribution, which is what a sample of
errors is fitted with, by a series.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_gamma_cdf(shape: float, x: float) -> float:
    r"""Logarithm of the gamma distribution function :math:`P(k, x)` of scale 1.

    .. math:: \log P(k, x) = k \log x - x - \log \Gamma(k + 1) + \log \sum_j \frac{x^j}{(k + 1) \cdots (k + j)}

    below the mean; above it from the other tail. A scaled chi-squared law is the gamma law of half its degrees of freedom.

    Args:
        shape: k, positive.
        x: where, at least 0.

    Returns:
        At most 0; minus infinity at 0.

    Raises:
        ValueError: the shape isn't positive, or x is negative or NaN.

    Example:
        >>> round(log_gamma_cdf(5.0, 2.5), 5)  # a chi-squared variable of ten degrees of freedom lies below 5
        -2.21804
        >>> round(log_gamma_cdf(50.0, 1e-3), 2)
        -493.87
    """
    if not shape > 0 or not x >= 0:
        raise ValueError(f"shape must be positive and x at least 0, not {shape} and {x}")
    if x == 0 or math.isinf(x):
        return -math.inf if x == 0 else 0.0
    if x > shape:
        above = torch.special.gammaincc(*(torch.tensor(v, dtype=torch.float64) for v in (shape, x)))
        return math.log1p(-above.item())
    term, total, j = 1.0, 1.0, 0
    while term > 1e-17 * total:
        j += 1
        term *= x / (shape + j)
        total += term
    return min(0.0, shape * math.log(x) - x - math.lgamma(shape + 1) + math.log(total))


def log_quadratic_cdf(weights: Tensor, shifts: Tensor, x: float) -> float:
    r"""Logarithm of the probability that :math:`\sum_i \lambda_i (z_i + b_i)^2 \le x`, by a saddle point.

    With the cumulant generating function and the saddle point t,

    .. math::
        K(t) = \sum_i \Big[ \frac{\lambda_i b_i^2 t}{1 - 2 \lambda_i t} - \frac12 \log(1 - 2 \lambda_i t) \Big], \qquad K'(t) = x,

    the formula of Lugannani and Rice is

    .. math::
        P = \Phi(w) + \varphi(w) \Big( \frac1w - \frac1u \Big), \qquad
        w = \operatorname{sign}(t) \sqrt{2 (t x - K(t))}, \qquad u = t \sqrt{K''(t)}.

    It is off by a percent or so for a few weights, and by less for many.

    Args:
        weights: lambda, positive, ``(r,)``.
        shifts: b, ``(r,)``.
        x: where.

    Returns:
        At most 0; minus infinity for x of 0 or less.

    Raises:
        ValueError: the shapes differ, there is no weight, or one isn't positive or not finite.

    Example:
        >>> import math
        >>> round(math.exp(log_quadratic_cdf(torch.ones(10), torch.full((10,), 0.5**0.5), 5.0)), 3)  # really 0.0223
        0.022
    """
    # On the CPU: a bisection asks for a number at each of its steps.
    lam, b2 = weights.double().flatten().cpu(), shifts.double().flatten().square().cpu()
    if lam.shape != b2.shape or not len(lam):
        raise ValueError(f"weights and shifts must be as many, and not none, not {len(lam)} and {len(b2)}")
    if not bool(((lam > 0) & lam.isfinite() & b2.isfinite()).all()):
        raise ValueError("weights must be positive, and all numbers finite")
    if not x > 0 or math.isinf(x):
        return 0.0 if x > 0 else -math.inf
    mean, variance = (lam * (1 + b2)).sum().item(), 2 * (lam.square() * (1 + 2 * b2)).sum().item()
    near = 1e-3 * math.sqrt(variance)
    if abs(x - mean) < near:  # both fractions blow up at the mean: between two points beside it the line is straight
        low, high = (log_quadratic_cdf(weights, shifts, mean + side * 1.001 * near) for side in (-1, 1))
        return low + (high - low) * (0.5 + (x - mean) / (2.002 * near))
    t = _saddle_point(lam, b2, x, mean)
    d = 1 - 2 * lam * t
    K = (t * lam * b2 / d - 0.5 * torch.log1p(-2 * lam * t)).sum().item()
    w = math.copysign(math.sqrt(max(0.0, 2 * (t * x - K))), t)
    u = t * math.sqrt(2 * (lam.square() * (1 / d.square() + 2 * b2 / d**3)).sum().item())
    # Tail on the far side of the mean: Mills' ratio by erfcx, so that nothing underflows.
    mills = (
        math.sqrt(math.pi / 2) * torch.special.erfcx(torch.tensor(abs(w) / math.sqrt(2), dtype=torch.float64)).item()
    )
    tail = -0.5 * w * w - 0.5 * math.log(2 * math.pi) + math.log(mills - 1 / abs(w) + 1 / abs(u))
    return min(0.0, tail) if t < 0 else math.log1p(-min(math.exp(tail), 1.0 - 1e-16))


def _saddle_point(lam: Tensor, b2: Tensor, x: float, mean: float) -> float:
    """Where K' is x, by bisection: K' rises with t, from 0 at minus infinity without bound towards 1 / (2 max lambda)."""
    top = 1 / (2 * lam.max().item())

    def slope(t: float) -> float:
        d = 1 - 2 * lam * t
        return (lam / d + lam * b2 / d.square()).sum().item()

    if x < mean:
        low, high = -top, 0.0
        while slope(low) > x:
            low, high = 2 * low, low
    else:
        low, high, gap = 0.0, top / 2, top / 2
        while slope(high) < x:
            gap /= 2
            low, high = high, top - gap
    while True:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            return middle
        low, high = (middle, high) if slope(middle) < x else (low, middle)
