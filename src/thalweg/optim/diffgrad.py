"""diffGrad: Adam slowed down wherever the gradient has stopped changing (arXiv:1909.11015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.optim.adamw import bias_corrections
from thalweg.optim.engine import Chain, ChainedOptimizer, Transform, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.engine.sharding import local
from thalweg.optim.weight_decay import add_decayed_weights
from thalweg.registry import method


def diffgrad_factors(
    step: int, betas: tuple[float, float], eps: float, eps_after_correction: bool = False, **_: Any
) -> dict[str, float]:
    """Adam's corrections, and ``eps`` as it stands beside the corrected root: added before the correction it is corrected too."""
    corrections = bias_corrections(step, betas)
    floor = eps if eps_after_correction else eps * corrections["correction2"]
    return {**corrections, "floor": floor}


@elementwise(state=("exp_avg", "exp_avg_sq", "previous_grad"), prepare=diffgrad_factors)
def diffgrad_direction(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    correction1: Any,
    correction2: Any,
    floor: Any,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_after_correction: bool = False,
    friction_scale: float = 1.0,
) -> Tensor:
    r"""Adam's direction times the friction; see :class:`DiffGrad`.

    Example:
        >>> from thalweg.optim import Chained, diffgrad_direction
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], diffgrad_direction(), lr=0.1).step()
        >>> p.data
        tensor([2.9378, 4.0881])
    """
    beta1, beta2 = betas
    mean = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * update
    square = state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * (update * update)
    friction = torch.sigmoid(friction_scale * (state["previous_grad"] - update).abs())
    state["previous_grad"] = update
    return friction * (mean * correction1) / (square.sqrt() * correction2 + floor)


@method(
    "diffgrad",
    search={"lr": ("log", 1e-4, 6e-2), "weight_decay": ("log", 1e-3, 1.0)},
    use="As a rival of AdamW that keeps a third state tensor: only if a race speaks for it.",
)
class DiffGrad(ChainedOptimizer):
    r"""Adam with friction where the gradient stands still (arXiv:1909.11015).

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
        \xi = \frac{1}{1 + e^{-|q - g|}}, \quad q \leftarrow g, \quad
        p \leftarrow (1 - \eta\lambda) p - \eta\, \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\,\frac{\xi\, m}{\sqrt v + \epsilon}

    with :math:`q` the gradient of the step before (0 at first). The friction :math:`\xi` lies between 1/2 and 1 and depends on the
    **absolute** change: the path changes with the scale of the loss, unlike Adam's, and where gradients change by much less than
    1, as in most networks, the rule is Adam at half the learning rate. ``friction_scale`` multiplies the change (ours).

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        lr: learning rate (default 1e-3).
        betas: decay rates of the running means (default (0.9, 0.999)).
        eps: added to the root of the uncorrected second moment, as above (default 1e-8).
        weight_decay: decay rate (default 0).
        decoupled: decay the weights (default), or, as published, add ``weight_decay * p`` to the gradient; ``q`` then holds the sum.
        eps_after_correction: add ``eps`` to the corrected root, as torch's Adam does (default False).
        friction_scale: factor of the gradient's change (default 1, the paper's).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: three tensors a parameter, ``exp_avg``, ``exp_avg_sq`` and ``previous_grad``.

    Example:
        >>> import torch
        >>> from thalweg.optim import DiffGrad
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = DiffGrad(model, lr=1e-3)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        eps_after_correction: bool = False,
        friction_scale: float = 1.0,
        **options: Any,
    ) -> None:
        rule: Chain | Transform = diffgrad_direction(
            betas=betas, eps=eps, eps_after_correction=eps_after_correction, friction_scale=friction_scale
        )
        if decoupled:
            options["weight_decay"] = weight_decay
        else:
            rule = add_decayed_weights(weight_decay=weight_decay) >> rule
        super().__init__(params, rule, lr=lr, **options)

    @torch.no_grad()
    def friction_stats(self) -> list[dict[str, float]]:
        """Mean, smallest and largest friction of each parameter group that a step now would apply: call it before ``step()``.

        Sharded parameters count this process's part. A group without gradients gives an empty dict.
        """
        return [
            _stats([f for p in group["params"] if (f := self._friction(p, group)) is not None])
            for group in self.param_groups
        ]

    def _friction(self, param: Tensor, group: dict[str, Any]) -> Tensor | None:
        if param.grad is None:
            return None
        gradient, before = local(param.grad), self.state[param].get("previous_grad") if param in self.state else None
        gradient = -gradient if group["maximize"] else gradient
        if "weight_decay" in self.rule_of(group).hypers:
            gradient = gradient + float(group["weight_decay"]) * local(param)
        change = gradient if before is None else gradient - local(before)
        change = torch.view_as_real(change) if change.is_complex() else change
        return torch.sigmoid(float(group["friction_scale"]) * change.abs()).flatten()


def _stats(frictions: list[Tensor]) -> dict[str, float]:
    values = torch.cat([f.double() for f in frictions]) if frictions else torch.empty(0)
    if not values.numel():
        return {}
    return {"mean": values.mean().item(), "min": values.min().item(), "max": values.max().item()}
