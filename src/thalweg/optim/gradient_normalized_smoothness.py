"""Newton steps damped by the gradient norm over a radius that finds itself (arXiv:2506.13710)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from thalweg.linalg.conjugate_gradients import conjugate_gradients

Operator = Callable[[Tensor], Tensor]
Accepted = Literal["decrease", "rounding", "fixed"]
Status = Literal["converged", "max_iter", "backtracking_failed", "not_positive_definite"]

EPS = 1e-8
"""Added to the radius before the gradient norm is divided by it."""

ROUNDING = 1e-12
"""A change of the objective below this, relative to it, is rounding (in float64)."""


class Trial(NamedTuple):
    """A step that was taken.

    Args:
        x, fun, grad, grad_norm: where it led.
        before: the objective before it.
        damping: what the curvature was raised by.
        accepted: "decrease" by the rule; "rounding": the objective no longer tells, but the gradient
            norm halved, or the slope at the new point shows the decrease; "fixed": untested.
    """

    x: Tensor
    fun: float
    grad: Tensor
    grad_norm: float
    before: float
    damping: float
    accepted: Accepted


def step_within_radius(
    x: Tensor,
    fun: float,
    grad_norm: float,
    gamma: float,
    solve: Callable[[float], Tensor | None],
    evaluate: Callable[[Tensor], tuple[float, Tensor]],
    norm: Callable[[Tensor], float],
    *,
    adaptive: bool = True,
    gamma_min: float = 1e-9,
    max_backtracks: int = 40,
    least_damping: float = 0.0,
    rounding: float = ROUNDING,
) -> tuple[Trial | None, float]:
    r"""One step of the method: the radius halves until the step lowers the objective enough, and doubles after that.

    .. math::
        \lambda = \frac{\|g\|}{\gamma + 10^{-8}}, \quad (C + \lambda B) h = -g, \qquad
        \text{accepted if } f(x) - f(x + h) \ge \frac{\|g(x+h)\|^2}{8 \lambda}

    Args:
        x: where it starts, ``(d,)``.
        fun, grad_norm: the objective and its gradient's norm there.
        gamma: the radius.
        solve: the step h for a damping; ``None`` where the damped curvature isn't positive definite, which halves the radius.
        evaluate: objective and gradient at a point.
        norm: of a gradient.
        adaptive: otherwise the first step is taken untested, and the radius stays.
        gamma_min: the radius isn't below this after a step.
        max_backtracks: times the radius is halved at most.
        least_damping: damping is never below this.
        rounding: change of the objective, relative to it, that says nothing any more.

    Returns:
        What the step led to, ``None`` if no radius served, and the radius for the next step.
    """
    for _ in range(max_backtracks + 1 if adaptive else 1):
        damping = max(grad_norm / (gamma + EPS), least_damping)
        step = solve(damping)
        if step is not None:
            there = x + step
            value, grad = evaluate(there)
            size = norm(grad)
            how: Accepted | None = "fixed"
            if adaptive:
                how = _accepted(fun, value, grad_norm, size, -float(torch.dot(step, grad)), damping, rounding)
            if how is not None:
                new_gamma = max(2 * gamma, gamma_min) if adaptive else gamma
                return Trial(there, value, grad, size, fun, damping, how), new_gamma
        if adaptive:
            gamma = gamma / 2
    return None, gamma


def _accepted(
    before: float, after: float, grad_norm: float, new_norm: float, slope: float, damping: float, rounding: float
) -> Accepted | None:
    if not (math.isfinite(after) and math.isfinite(new_norm)):
        return None
    enough = new_norm**2 / (8 * damping)
    if before - after >= enough:
        return "decrease"
    # Where the difference of two objectives is rounding, gradients still tell: of a function that is convex between the two points,
    # the decrease is at least the slope, -h^T g(x+h).
    if abs(before - after) <= rounding * abs(before) and (new_norm <= 0.5 * grad_norm or slope >= enough):
        return "rounding"
    return None


@dataclass
class NewtonResult:
    """Where :func:`gradient_regularized_newton` ended.

    Args:
        x: the best point, ``(d,)``.
        fun: the objective there.
        grad_norm: the dual norm of its gradient there.
        status: "converged", "max_iter", "backtracking_failed" (no radius gave a step that lowers the objective enough) or
            "not_positive_definite" (with a fixed radius).
        nit: steps taken.
        n_fun, n_grad: evaluations of objective and gradient.
        n_factor: linear systems solved, or found not to be positive definite.
        gamma_history: the radius at the start and after every step.
        history: the steps.
    """

    x: Tensor
    fun: float
    grad_norm: float
    status: Status = "max_iter"
    nit: int = 0
    n_fun: int = 1
    n_grad: int = 1
    n_factor: int = 0
    gamma_history: list[float] = field(default_factory=list)
    history: list[Trial] = field(default_factory=list)


def gradient_regularized_newton(
    fun: Callable[[Tensor], Tensor],
    hess: Callable[[Tensor], Tensor | Operator],
    x0: Tensor,
    *,
    grad: Callable[[Tensor], Tensor] | None = None,
    gamma0: float = 1.0,
    adaptive: bool = True,
    metric: Tensor | None = None,
    grad_tol: float = 1e-8,
    max_iter: int = 1000,
    gamma_min: float = 1e-9,
    max_backtracks: int = 40,
    cg_rtol: float = 1e-10,
) -> NewtonResult:
    r"""Minimize a function by Newton steps with exact or approximate curvature, and nothing to tune (arXiv:2506.13710).

    A step solves :math:`(C + \lambda B) h = -g` with :math:`\lambda = \|g\|_* / (\gamma + 10^{-8})`: within the radius :math:`\gamma`
    the curvature C is trusted to say how the gradient changes. The radius halves and doubles by itself
    (:func:`step_within_radius`). C may be inexact: Gauss-Newton, Fisher, a bound, or zero, which leaves normalized gradient descent.
    Norms are :math:`\|h\|^2 = h^\top B h` and, for gradients, :math:`\|g\|_*^2 = g^\top B^{-1} g`.

    Args:
        fun: ``x (d,) -> scalar``; best in float64, since acceptance compares nearly equal values.
        hess: ``x -> C``, symmetric, ``(d, d)``, solved by Cholesky; or a function ``v -> C v``, solved by conjugate gradients.
        x0: the start, ``(d,)``.
        grad: ``x -> (d,)``; ``None``: by autograd.
        gamma0: the first radius.
        adaptive: otherwise the radius stays, and every step is taken.
        metric: B, symmetric positive definite, ``(d, d)``; ``None``: the identity.
        grad_tol: the gradient's dual norm to stop at.
        max_iter: steps at most.
        gamma_min: the radius isn't below this after a step.
        max_backtracks: halvings in a step at most.
        cg_rtol: relative residual of conjugate gradients.

    Raises:
        ValueError: ``gamma0`` not positive, a metric that isn't positive definite, a Hessian of another shape, or an objective or
            gradient that isn't finite at ``x0``.

    Example:
        >>> A = torch.diag(torch.tensor([1.0, 100.0], dtype=torch.float64))
        >>> x0 = torch.ones(2, dtype=torch.float64)
        >>> result = gradient_regularized_newton(lambda x: 0.5 * x @ A @ x, lambda x: A, x0)
        >>> result.status, bool(result.x.abs().max() < 1e-8)
        ('converged', True)
    """
    if not (gamma0 > 0 and math.isfinite(gamma0)):
        raise ValueError(f"Invalid gamma0: {gamma0!r} (must be a finite number > 0)")
    geometry = _Geometry(metric, x0)

    def evaluate(point: Tensor) -> tuple[float, Tensor]:
        result.n_fun += 1
        result.n_grad += 1
        return _value_and_gradient(fun, grad, point)

    value, gradient = _value_and_gradient(fun, grad, x0)
    if not (math.isfinite(value) and bool(gradient.isfinite().all())):
        raise ValueError(f"the objective or its gradient is not finite at x0 (objective {value})")
    result = NewtonResult(x0.detach().clone(), value, geometry.dual_norm(gradient), gamma_history=[gamma0])
    gamma = gamma0
    while result.grad_norm > grad_tol and result.nit < max_iter:
        curvature = hess(result.x)
        system = _System(curvature, gradient, geometry, cg_rtol)
        trial, gamma = step_within_radius(
            result.x,
            result.fun,
            result.grad_norm,
            gamma,
            system.solve,
            evaluate,
            geometry.dual_norm,
            adaptive=adaptive,
            gamma_min=gamma_min,
            max_backtracks=max_backtracks,
            least_damping=system.least_damping,
        )
        result.n_factor += system.solved
        if trial is None:
            result.status = "backtracking_failed" if adaptive else "not_positive_definite"
            return result
        result.x, result.fun, gradient, result.grad_norm = trial.x, trial.fun, trial.grad, trial.grad_norm
        result.nit += 1
        result.gamma_history.append(gamma)
        result.history.append(trial)
    result.status = "converged" if result.grad_norm <= grad_tol else "max_iter"
    return result


class _Geometry:
    """The metric B: its product, and the dual norm."""

    def __init__(self, metric: Tensor | None, like: Tensor) -> None:
        if like.ndim != 1:
            raise ValueError(f"x0 must be a vector, not of shape {tuple(like.shape)}")
        size = len(like)
        self.matrix = torch.eye(size, dtype=like.dtype, device=like.device) if metric is None else metric
        self.plain = metric is None
        if self.matrix.shape != (size, size):
            raise ValueError(f"metric must be ({size}, {size}), not {tuple(self.matrix.shape)}")
        self.factor, failed = torch.linalg.cholesky_ex(self.matrix)
        if bool(failed) or not torch.equal(self.matrix, self.matrix.T):
            raise ValueError("metric must be symmetric and positive definite")

    def dual_norm(self, gradient: Tensor) -> float:
        if self.plain:
            return float(gradient.norm())
        return float(torch.linalg.solve_triangular(self.factor, gradient[:, None], upper=False).norm())


class _System:
    """The damped equations of one step, for one damping after another."""

    def __init__(self, curvature: Tensor | Operator, gradient: Tensor, geometry: _Geometry, cg_rtol: float) -> None:
        size = len(gradient)
        if isinstance(curvature, Tensor) and curvature.shape != (size, size):
            raise ValueError(f"hess must give ({size}, {size}), not {tuple(curvature.shape)}")
        self.curvature, self.gradient, self.geometry, self.cg_rtol = curvature, gradient, geometry, cg_rtol
        self.solved = 0
        # Flat directions: without any damping, rounding would decide whether the factorization succeeds.
        self.least_damping = 1e-12 * max(0.0, float(curvature.trace())) / size if isinstance(curvature, Tensor) else 0.0

    def solve(self, damping: float) -> Tensor | None:
        self.solved += 1
        if isinstance(self.curvature, Tensor):
            factor, failed = torch.linalg.cholesky_ex(self.curvature + damping * self.geometry.matrix)
            return None if bool(failed) else torch.cholesky_solve(-self.gradient[:, None], factor)[:, 0]
        product = self.curvature
        found = conjugate_gradients(
            lambda v: product(v) + damping * (self.geometry.matrix @ v), -self.gradient, rtol=self.cg_rtol
        )
        return None if found.status == "not_positive" else found.x


def _value_and_gradient(
    fun: Callable[[Tensor], Tensor], grad: Callable[[Tensor], Tensor] | None, x: Tensor
) -> tuple[float, Tensor]:
    if grad is not None:
        return float(fun(x)), grad(x)
    point = x.detach().requires_grad_()
    with torch.enable_grad():
        value = fun(point)
        (gradient,) = torch.autograd.grad(value, point)
    return float(value.detach()), gradient
