"""Sharpness-aware minimization: the gradient at the worst point nearby, for any optimizer (arXiv:2010.01412)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from thalweg.autodiff.closure import Closure
from thalweg.autodiff.replayed_draws import ReplayedDraws
from thalweg.autodiff.unchanged_buffers import unchanged_buffers
from thalweg.optim.adamw import AdamW
from thalweg.optim.engine.gradient_norm import joint_norm
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.engine.sharding import local
from thalweg.optim.engine.wrapping import Base, WrappedOptimizer
from thalweg.registry import method

NORM_EPS = 1e-12
"""Gradient norms below this count as this, so that a gradient of zero moves nothing."""


def ascent_scale(params: list[Tensor], gradients: list[Tensor], adaptive: list[bool]) -> float:
    r"""One over the norm that a perturbation is divided by, shards added up.

    The norm is that of all :math:`g`, or of :math:`|w| \odot g` for the tensors that are ``adaptive``.
    """
    norm = joint_norm(
        (p, local(p).abs() * local(g) if scaled else local(g))
        for p, g, scaled in zip(params, gradients, adaptive, strict=True)
    )
    return 1 / max(norm, NORM_EPS) if norm == norm else norm  # NaN stays NaN


def ascend_(param: Tensor, gradient: Tensor, by: float, adaptive: bool) -> None:
    r"""Move a parameter in place by ``by`` times :math:`g`, or :math:`w^2 \odot g` if ``adaptive``."""
    weight, gradient = local(param), local(gradient)
    if adaptive:
        weight.add_(weight.abs().square() * gradient, alpha=by)
    else:
        weight.add_(gradient, alpha=by)


def check_radius(group: Mapping[str, Any], name: str = "rho") -> None:
    """Raise unless a group's radius is a finite number that is not negative."""
    if not (group[name] >= 0 and math.isfinite(group[name])):
        raise ValueError(f"Invalid {name}: {group[name]!r} (must be a finite number >= 0)")


@method(
    "sam",
    search={"lr": ("log", 1e-4, 3e-2), "weight_decay": ("log", 1e-3, 1.0), "rho": ("log", 5e-3, 0.5)},
    use="Little data, where generalization is the limit and not time: each step takes two gradients.",
)
class SAM(WrappedOptimizer):
    r"""Sharpness-aware minimization around any optimizer (arXiv:2010.01412), or its adaptive form ASAM (arXiv:2102.11600).

    .. math::
        \epsilon = \rho\, \frac{g(w)}{\|g(w)\|}, \qquad \text{adaptive: } \epsilon = \rho\, \frac{w^2 \odot g(w)}{\||w| \odot g(w)\|},
        \qquad w \leftarrow \mathrm{base}\bigl(w,\; g(w + \epsilon)\bigr)

    Each step takes two gradients of one batch: at the weights, and at the point within ``rho`` where the loss is largest to first
    order. The base makes its step, weight decay included, at the weights themselves, which come back bit by bit. The norm is that of
    all groups together. ``rho = 0`` is the base; a gradient of zero moves nothing; NaN or infinity reaches the second gradient, and
    the base does with it as it says. With ``maximize`` the worst point lies downhill.

    Dropout draws the same masks in both passes. With a :class:`~thalweg.autodiff.Closure` batch normalization counts the batch once;
    a plain closure must see to that (:func:`~thalweg.autodiff.unchanged_buffers`). Under DDP and FSDP2 gradients are averages before
    the weights move, so all processes look at the same point. bfloat16 weights round small perturbations away: train in float32
    under autocast, or raise ``rho``.

    ``GradScaler`` takes no closures; there, and wherever the loop is your own, a step is::

        scaler.scale(loss(batch)).backward()
        optimizer.perturb()                      # a common factor of the gradients doesn't matter
        optimizer.zero_grad()
        scaler.scale(loss(batch)).backward()
        optimizer.restore()                      # before the scaler, which may skip the step
        scaler.step(optimizer)
        scaler.update()

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        base: an optimizer class, a registered name such as ``"lion"``, a chain of transforms, or a function ``(params, **settings)
            -> Optimizer`` (default :class:`AdamW`); not one that evaluates closures itself.
        lr: the base's learning rate (default 1e-3).
        rho: radius of the neighbourhood, in the weights' units (default 0.05); adaptive needs ten times as much or more.
            Groups may have their own.
        adaptive: measure the neighbourhood relative to each weight, so that rescaled layers look alike.
        weight_decay: the base's weight decay (default 0.01).
        settings: further settings of the base.

    State: the base's; during a step one copy of the parameters.

    Raises:
        ValueError: ``rho`` negative or not finite; a base that needs closures.
        RuntimeError: in ``step``: no closure, and no :meth:`perturb` before; sparse gradients.

    Example:
        >>> import torch
        >>> from thalweg.optim import SAM
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = SAM(model, base=torch.optim.SGD, lr=0.1, rho=0.05, momentum=0.9)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = model(torch.ones(8, 4)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
    """

    def __init__(
        self,
        params: Params,
        base: Base = AdamW,
        lr: float | Tensor = 1e-3,
        rho: float = 0.05,
        adaptive: bool = False,
        weight_decay: float = 0.01,
        **settings: Any,
    ) -> None:
        given = {"lr": lr, "weight_decay": weight_decay, **settings}
        self._saved: list[tuple[Tensor, Tensor]] = []
        self._perturbed = False
        super().__init__(params, base, given, {"rho": rho, "adaptive": adaptive})

    def _check_group(self, group: Mapping[str, Any]) -> None:
        check_radius(group)

    @torch.no_grad()
    def perturb(self) -> None:
        """Move the weights to the worst point that ``p.grad`` shows; :meth:`restore` or :meth:`step` brings them back."""
        self.restore()
        found = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, p in found:
            if p.grad.layout is not torch.strided:
                raise RuntimeError("SAM does not support sparse gradients (make the embedding dense)")
        adaptive = [bool(group["adaptive"]) for group, _ in found]
        scale = ascent_scale([p for _, p in found], [p.grad for _, p in found], adaptive)
        self._saved = [(p, local(p).clone()) for _, p in found]
        self._perturbed = True
        for (group, p), scaled in zip(found, adaptive, strict=True):
            sign = -1 if group.get("maximize") else 1
            ascend_(p, p.grad, sign * float(group["rho"]) * scale, scaled)

    @torch.no_grad()
    def restore(self) -> None:
        """Bring the weights back, bit by bit, from where :meth:`perturb` moved them; nothing where it didn't."""
        for p, weight in self._saved:
            local(p).copy_(weight)
        self._saved = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base with the gradient at the worst point.

        Args:
            closure: clears the gradients, evaluates the loss, calls ``backward`` and returns the loss; called twice. ``None`` after
                :meth:`perturb` and a backward pass of one's own.

        Returns:
            The loss at the weights, without perturbation.
        """
        loss = None
        if closure is not None:
            loss = self._two_passes(closure)
        elif not self._perturbed:
            raise RuntimeError(
                "SAM needs a second gradient: call step(closure), or perturb() and backward() before step()"
            )
        self.restore()
        self._perturbed = False
        self._step_base()
        return loss

    def _two_passes(self, closure: Callable[[], Any]) -> Any:
        draws = ReplayedDraws(p.device for group in self.param_groups for p in group["params"])
        with torch.enable_grad():
            loss = closure()
        self.perturb()
        try:
            with torch.enable_grad(), draws.again(), _no_second_count(closure):
                closure()
        finally:
            self.restore()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        if self._saved:
            raise RuntimeError("the weights are perturbed: copy or pickle the optimizer after restore() or step()")
        return {**super().__getstate__(), "_saved": [], "_perturbed": False}


@contextmanager
def _no_second_count(closure: Callable[[], Any]) -> Iterator[None]:
    with unchanged_buffers(closure.model) if isinstance(closure, Closure) else nullcontext():
        yield
