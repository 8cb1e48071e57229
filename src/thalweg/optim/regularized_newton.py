"""Newton steps with gradient-normalized smoothness on a network's parameters (arXiv:2506.13710)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.autodiff.closure import Closure
from thalweg.autodiff.curvature_products import CURVATURES, Curvature, curvature_product
from thalweg.autodiff.replayed_draws import ReplayedDraws
from thalweg.autodiff.unchanged_buffers import unchanged_buffers
from thalweg.linalg.conjugate_gradients import conjugate_gradients
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.gradient_normalized_smoothness import ROUNDING, step_within_radius


class GradientRegularizedNewton(torch.optim.Optimizer):
    r"""Newton steps with curvature by products, damped by the gradient norm over a radius that finds itself (arXiv:2506.13710).

    .. math::
        (C + \lambda I)\, h = -g, \qquad \lambda = \frac{\|g\|}{\gamma + 10^{-8}}, \qquad w \leftarrow w + \eta h

    The radius :math:`\gamma` halves until :math:`L(w) - L(w + h) \ge \|g(w+h)\|^2 / (8 \lambda)`, and doubles afterwards; nothing
    has to be tuned. Systems are solved by conjugate gradients. A step costs, for every trial, a loss with its gradient and some
    products of about two gradients each; about two trials a step are usual. All look at one batch, with the same dropout masks, and
    batch normalization counts it once. **The paper's guarantees are for whole data sets**: on mini-batches the radius follows the
    batch.

    Args:
        params: parameters, or a module; one group only, since a step couples all.
        curvature: ``"gauss_newton"`` (default), ``"hessian"`` (exact; where it isn't positive definite the radius shrinks) or
            ``"fisher"`` (of the batch's own targets); see :func:`~thalweg.autodiff.curvature_product`.
        gamma: the first radius (default 1).
        adaptive: otherwise the radius stays, and every step is taken.
        lr: share of the step that is made (default 1, the method), for schedules.
        cg_rtol: relative residual of conjugate gradients (default 1e-4).
        cg_max_iter: products in a system at most (default 100).
        max_backtracks: halvings in a step at most (default 40); if none serves, the weights stay.
        gamma_min: the radius isn't below this after a step.

    State: one number, the radius, in the group under ``gamma``; during a step a few copies of the parameters.

    Raises:
        ValueError: several groups, complex parameters, an unknown curvature, a setting out of range.
        TypeError: in ``step``: not a :class:`~thalweg.autodiff.Closure`.
        RuntimeError: in ``step``: a closure of several processes.
        FloatingPointError: in ``step``: the loss or its gradient is not finite at the weights.

    Example:
        >>> import torch
        >>> from thalweg.autodiff import Closure
        >>> from thalweg.optim import GradientRegularizedNewton
        >>> model = torch.nn.Linear(4, 3)
        >>> closure = Closure(model, torch.nn.functional.cross_entropy, torch.randn(30, 4), torch.arange(30) % 3)
        >>> optimizer = GradientRegularizedNewton(model)
        >>> losses = [optimizer.step(closure).item() for _ in range(5)]
        >>> losses[4] < losses[0]
        True
    """

    needs_closure = True

    def __init__(
        self,
        params: Params,
        curvature: Curvature = "gauss_newton",
        gamma: float = 1.0,
        adaptive: bool = True,
        lr: float | Tensor = 1.0,
        cg_rtol: float = 1e-4,
        cg_max_iter: int = 100,
        max_backtracks: int = 40,
        gamma_min: float = 1e-9,
    ) -> None:
        if curvature not in CURVATURES:
            raise ValueError(f"unknown curvature {curvature!r} (choose from {', '.join(CURVATURES)})")
        for name, value in {
            "gamma": gamma,
            "cg_rtol": cg_rtol,
            "cg_max_iter": cg_max_iter,
            "gamma_min": gamma_min,
        }.items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"Invalid {name}: {value!r} (must be a finite number > 0)")
        for name, value in {"lr": float(lr), "max_backtracks": max_backtracks}.items():
            if not value >= 0:
                raise ValueError(f"Invalid {name}: {value!r} (must be >= 0)")
        if isinstance(params, nn.Module):
            params = params.parameters()
        defaults = {
            "lr": lr,
            "curvature": curvature,
            "gamma": gamma,
            "adaptive": adaptive,
            "cg_rtol": cg_rtol,
            "cg_max_iter": cg_max_iter,
            "max_backtracks": max_backtracks,
            "gamma_min": gamma_min,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The one group; a second is refused."""
        if self.param_groups:
            raise ValueError(f"{type(self).__name__} takes one parameter group: a step couples all parameters")
        super().add_param_group(param_group)
        if any(p.is_complex() for p in self.param_groups[0]["params"]):
            self.param_groups.pop()
            raise ValueError(f"{type(self).__name__} takes real parameters only")

    @property
    def gamma(self) -> float:
        """The radius for the next step."""
        return float(self.param_groups[0]["gamma"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Tensor:  # type: ignore[override]
        """One step on the closure's batch.

        Returns:
            The loss at the weights before the step. ``p.grad`` holds the gradient of the last trial.
        """
        if not isinstance(closure, Closure):
            raise TypeError(
                f"{type(self).__name__} needs the loss of a batch, not only gradients: step with a thalweg.autodiff.Closure"
            )
        if closure.num_processes > 1:
            raise RuntimeError(f"{type(self).__name__} needs second derivatives, which DDP and FSDP don't pass on")
        group = self.param_groups[0]
        params = [p for p in group["params"] if p.requires_grad]
        draws = ReplayedDraws(p.device for p in params)
        with torch.enable_grad():
            loss: Tensor = closure().detach()
        before, gradient = _flat(params), _flat_gradient(params)
        norm = float(gradient.norm())
        if not (math.isfinite(norm) and math.isfinite(float(loss))):
            raise FloatingPointError(f"the loss ({float(loss)}) or its gradient is not finite; nothing was changed")
        if norm == 0:
            return loss

        def solve(damping: float) -> Tensor | None:
            _write(params, before)
            # A new graph each time: trials write over the weights and buffers that an older one needs.
            with _again(closure, draws):
                product = curvature_product(closure, params, group["curvature"])
                found = conjugate_gradients(
                    lambda v: product(v) + damping * v, -gradient, rtol=group["cg_rtol"], max_iter=group["cg_max_iter"]
                )
            return None if found.status == "not_positive" else found.x

        def evaluate(point: Tensor) -> tuple[float, Tensor]:
            _write(params, point)
            with torch.enable_grad(), _again(closure, draws):
                value = float(closure())
            return value, _flat_gradient(params)

        try:
            trial, gamma = step_within_radius(
                before,
                float(loss),
                norm,
                self.gamma,
                solve,
                evaluate,
                lambda g: float(g.norm()),
                adaptive=group["adaptive"],
                gamma_min=group["gamma_min"],
                max_backtracks=group["max_backtracks"],
                rounding=max(ROUNDING, 10 * torch.finfo(loss.dtype).eps),
            )
        except BaseException:
            _write(params, before)
            raise
        group["gamma"] = max(gamma, group["gamma_min"])
        _write(params, before if trial is None else before + float(group["lr"]) * (trial.x - before))
        return loss


@contextmanager
def _again(closure: Closure, draws: ReplayedDraws) -> Iterator[None]:
    """A further pass over the batch: the same random draws, and no trace in buffers."""
    with draws.again(), unchanged_buffers(closure.model):
        yield


def _flat(params: list[Tensor]) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in params])


def _flat_gradient(params: list[Tensor]) -> Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in params])


def _write(params: list[Tensor], vector: Tensor) -> None:
    for p, piece in zip(params, vector.split([p.numel() for p in params]), strict=True):
        p.copy_(piece.view_as(p))
