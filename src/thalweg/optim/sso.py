"""Target-based surrogates: several steps on a model of the loss around the current outputs (arXiv:2302.02607)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.autodiff.closure import Closure
from thalweg.optim.engine.gradient_norm import gradient_norm
from thalweg.optim.engine.optimizer import ChainedOptimizer, Params
from thalweg.optim.engine.sharding import local
from thalweg.optim.engine.wrapping import Base
from thalweg.optim.surrogate import LineSearch, Surrogate, move
from thalweg.registry import lookup, method

FLAT = 1e-6
"""Inner steps end where the surrogate's gradient norm falls below this."""

LR_BOUNDS = (1e-4, 1e4)
"""Range of the step in target space under ``schedule="armijo"``."""


class SurrogateStep(NamedTuple):
    """What one step did.

    Args:
        lr: the step in target space.
        loss: at the weights before, which is also the surrogate's value there.
        surrogate: its value at the end; with ``lr`` at most 1 / L an upper bound of the loss there. ``None`` where only a further
            pass would tell: without line search.
        queries: evaluations of the loss: one with its gradient, more for a line search in target space.
        inner_steps: steps made on the surrogate.
        passes: forward passes through the model.
    """

    lr: float
    loss: float
    surrogate: float | None
    queries: int
    inner_steps: int
    passes: int


@method(
    "sso",
    search={"lr": ("log", 1e-1, 1e2), "inner_steps": ("int", 2, 20), "weight_decay": ("log", 1e-6, 1e-2)},
    use="The loss (a simulator, an expert) costs far more than passes through the model: it is asked once for several steps.",
)
class TargetSurrogate(torch.optim.Optimizer):
    r"""Target-based surrogate optimization, SSO: one gradient of the loss, then several steps of the model (arXiv:2302.02607).

    With outputs :math:`z = f(w_t)` of the batch, their gradient :math:`D = \nabla_z \ell(z)` and b terms in the loss's mean:

    .. math::
        S(w) = \ell(z) + \langle D, f(w) - z \rangle + \frac{1}{2 \eta b} \|f(w) - z\|^2

    is lowered by ``inner_steps`` steps that evaluate the model only. The outputs make a (projected) gradient step of size
    :math:`\eta` = ``lr`` for each term, so ``lr`` has the loss's scale, not the model's: with :math:`\eta \le 1/L`, L the curvature
    of one term's loss by its outputs (1/4 for logistic loss, 1 for half of the squared error and, at most, for cross-entropy), S lies
    above the loss, and on the whole data set the loss never rises. On mini-batches that can't all be fitted let ``lr`` fall, as
    :math:`1/\sqrt t` for instance, by any of torch's schedulers.

    One inner step of fixed size is a step of SGD with learning rate ``lr * inner_lr``. Many on a linear model end at
    :math:`w - \eta\, b\, X^+ D`, a step of Gauss and Newton.

    Where only the gradient by the outputs can be asked for, make it a loss: ``lambda z, y: (z * ask(z.detach(), y)).sum()``.

    Args:
        params: parameters, groups that differ in ``weight_decay`` only, or a module (biases and norm gains then aren't decayed).
        lr: step in target space (default 1).
        inner_steps: steps on each surrogate, m (default 10).
        schedule: ``"constant"``: ``lr`` as it is; ``"armijo"``: found by backtracking in target space, at the cost of more values of
            the loss; it starts from ``lr`` at the first step and from ``expand`` times the last one later.
        inner: ``"line_search"`` (default): gradient descent with Armijo's rule on the surrogate, which needs no rate; ``"gd"``:
            gradient descent; or an optimizer class, a registered name such as ``"adamw"``, or a function
            ``(params, lr=...) -> Optimizer``, made anew for every surrogate.
        inner_lr: inner step in units of ``lr``: for ``"gd"`` stable below 2b over the largest eigenvalue of :math:`J^\top J`, J the
            Jacobian of the batch's outputs. ``None``: 10 for the line search, its first trial at every step; others must say it.
        c: share of the decrease foretold that a line search asks for (default 0.5).
        beta: by what trials shrink (default 0.9).
        expand: by what the first trial exceeds the last accepted step (default 1.8).
        reduction: ``"mean"`` (default): the loss is a mean over b terms, one for each position of the outputs but their last
            dimension; ``"sum"``: a sum, and b is 1.
        weight_decay: decoupled; ``lr * weight_decay`` times the old weights is taken off at the end (default 0).

    State: with ``schedule="armijo"`` one number in the groups, ``accepted_lr``. During a step a copy of the parameters, two with a
    line search, and the outputs with their gradient. All passes see the same dropout masks, and batch normalization counts a batch
    once. Under DDP and FSDP2 every inner step communicates as a backward pass does.

    Raises:
        ValueError: a setting out of range; in ``step``: groups whose ``lr`` differ.
        TypeError: in ``step``: not a :class:`~thalweg.autodiff.Closure`, or outputs that aren't one tensor.
        RuntimeError: in ``step``: the model's outputs differ between two passes at the same weights (checked at the first step).
        FloatingPointError: in ``step``: the loss or its gradient is not finite; nothing was changed.

    Example:
        >>> import torch
        >>> from thalweg.autodiff import Closure
        >>> from thalweg.optim import TargetSurrogate
        >>> model = torch.nn.Linear(4, 3)
        >>> closure = Closure(model, torch.nn.functional.cross_entropy, torch.randn(30, 4), torch.arange(30) % 3)
        >>> optimizer = TargetSurrogate(model, lr=1.0, inner_steps=5)
        >>> losses = [optimizer.step(closure).item() for _ in range(5)]
        >>> losses == sorted(losses, reverse=True), optimizer.last_step.queries
        (True, 1)
    """

    needs_closure = True
    last_step: SurrogateStep | None = None

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        inner_steps: int = 10,
        schedule: Literal["constant", "armijo"] = "constant",
        inner: Literal["line_search", "gd"] | Base = "line_search",
        inner_lr: float | None = None,
        c: float = 0.5,
        beta: float = 0.9,
        expand: float = 1.8,
        reduction: Literal["mean", "sum"] = "mean",
        weight_decay: float = 0.0,
    ) -> None:
        if schedule not in ("constant", "armijo"):
            raise ValueError(f'schedule must be "constant" or "armijo", not {schedule!r} (for others use a scheduler)')
        if reduction not in ("mean", "sum"):
            raise ValueError(f'reduction must be "mean" or "sum", not {reduction!r}')
        if inner_lr is None and inner != "line_search":
            raise ValueError(f"say inner_lr, the inner step in units of lr: inner={inner!r} has no default")
        self.inner = lookup(inner, "optim").target if isinstance(inner, str) and inner not in _BUILT_IN else inner
        if getattr(self.inner, "needs_closure", False):
            raise ValueError(f"inner can't be {inner!r}, which evaluates closures by itself")
        defaults = {
            "lr": lr,
            "inner_steps": inner_steps,
            "schedule": schedule,
            "inner_lr": 10.0 if inner_lr is None else inner_lr,
            "c": c,
            "beta": beta,
            "expand": expand,
            "reduction": reduction,
            "weight_decay": weight_decay,
            "accepted_lr": 0.0,
        }
        self._checked = False
        super().__init__(ChainedOptimizer.groups_for(params) if isinstance(params, nn.Module) else params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it may have a ``weight_decay`` of its own, and else takes the first group's settings."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        first = {k: v for k, v in (self.param_groups or [self.defaults])[0].items() if k in self.defaults}
        param_group = {**first, **param_group}
        for name, good in _RANGES.items():
            value = float(param_group[name])
            if not (math.isfinite(value) and good(value)):
                raise ValueError(f"Invalid {name}: {param_group[name]!r}")
        odd = [name for name in first if param_group[name] != first[name] and name != "weight_decay"]
        if self.param_groups and odd:
            raise ValueError(
                f"all groups must have the same {odd[0]}: the outputs make one step, whichever weights move"
            )
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Tensor:  # type: ignore[override]
        """One surrogate on the closure's batch, and the steps on it.

        Returns:
            The loss at the weights before the step. ``p.grad`` holds the last gradient of a surrogate.
        """
        if not isinstance(closure, Closure):
            raise TypeError(
                f"{type(self).__name__} needs model and loss apart, not only gradients: step with a thalweg.autodiff.Closure"
            )
        group = self.param_groups[0]
        if len({float(g["lr"]) for g in self.param_groups}) > 1:
            raise ValueError("all groups must have the same lr: the outputs make one step, whichever weights move")
        params = [p for g in self.param_groups for p in g["params"] if p.requires_grad]
        surrogate = Surrogate(closure, params, group["reduction"])
        if group["inner_steps"] > 1 and not self._checked:
            surrogate.check_outputs()
            self._checked = True
        before = [local(p).clone() for p in params]
        try:
            surrogate.lr = self._target_step(surrogate, group)
            steps, value = self._descend(surrogate, group)
        except BaseException:
            for p, weight in zip(params, before, strict=True):
                local(p).copy_(weight)
            raise
        decays = {p: float(g["weight_decay"]) for g in self.param_groups for p in g["params"]}
        for p, weight in zip(params, before, strict=True):
            if decays[p]:
                local(p).sub_(weight, alpha=surrogate.lr * decays[p])
        end = None if value is None else surrogate.loss + value
        self.last_step = SurrogateStep(surrogate.lr, surrogate.loss, end, surrogate.queries, steps, surrogate.passes)
        return surrogate.own_loss

    def _target_step(self, surrogate: Surrogate, group: dict[str, Any]) -> float:
        """The step in target space; the largest of the trials that lower the loss enough."""
        lr = float(group["lr"])
        if group["schedule"] == "constant":
            return lr
        low, high = LR_BOUNDS
        lr = min(max(group["expand"] * group["accepted_lr"] or lr, low), high)
        while lr > low and not surrogate.lowers_loss(lr, group["c"]):
            lr = max(group["beta"] * lr, low)
        for g in self.param_groups:
            g["accepted_lr"] = lr
        return lr

    def _descend(self, surrogate: Surrogate, group: dict[str, Any]) -> tuple[int, float | None]:
        """The inner steps; how many were made, and the change of the surrogate's value where that is known."""
        size, params = surrogate.lr * float(group["inner_lr"]), surrogate.params
        if not size:
            return 0, 0.0
        search = LineSearch(surrogate, size, group) if self.inner == "line_search" else None
        optimizer = None if self.inner in _BUILT_IN else self.inner(params, lr=size)  # type: ignore[operator]
        for step in range(group["inner_steps"]):
            if step:
                surrogate.differentiate()
            norm = gradient_norm(params)
            if norm < FLAT or (search is not None and not search.step(norm)):
                return step, None if search is None else search.value
            if optimizer is not None:
                optimizer.step()
            elif search is None:
                move(params, size)
        return group["inner_steps"], None if search is None else search.value

    def __getstate__(self) -> dict[str, Any]:
        own = {"inner": self.inner, "_checked": self._checked, "last_step": self.last_step}
        return {**super().__getstate__(), **own}


_BUILT_IN = ("line_search", "gd")

_RANGES: dict[str, Callable[[float], bool]] = {
    "lr": lambda x: x >= 0,
    "inner_lr": lambda x: x > 0,
    "inner_steps": lambda x: x >= 1 and x == int(x),
    "c": lambda x: 0 < x < 1,
    "beta": lambda x: 0 < x < 1,
    "expand": lambda x: x >= 1,
    "weight_decay": lambda x: x >= 0,
}
