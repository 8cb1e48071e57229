"""AdaGrad-Norm: one step size for all weights, which falls with the gradients seen so far."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, elementwise
from thalweg.optim.engine.gradient_norm import gradient_norm
from thalweg.optim.engine.optimizer import Params
from thalweg.registry import method


def inverse_root(step: int, accumulator: float, **_: Any) -> dict[str, float]:
    """The factor that the accumulator makes; it is 0 only while every gradient was 0, and then nothing is to move."""
    return {"factor": accumulator**-0.5 if accumulator != 0 else 0.0}


@elementwise(prepare=inverse_root)
def scale_by_accumulator(
    update: Tensor, param: Tensor, state: dict[str, Tensor], *, factor: Any, accumulator: float = 1e-2
) -> Tensor:
    r"""The update over the root of ``accumulator``."""
    return update * factor


@method(
    "adagrad_norm",
    search={"lr": ("log", 1e-2, 1e2), "weight_decay": ("log", 1e-6, 1e-2)},
    use="Smooth problems for which no learning rate can be tuned; state is one number.",
)
class AdagradNorm(ChainedOptimizer):
    r"""AdaGrad with one accumulator for all weights together (Ward, Wu and Bottou 2019), as in AdAdaGradNorm (arXiv:2402.11215).

    .. math:: s \leftarrow s + \|g\|^2, \qquad p \leftarrow (1-\eta\lambda) p - \frac{\eta}{\sqrt s}\, g

    The norm is that of the gradients of **all** groups. The whole state is the number s, ``accumulator`` in every parameter group; it
    is worked out on the host, which waits for the backward pass.

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        lr: learning rate (default 1).
        weight_decay: decoupled decay rate (default 0).
        initial_accumulator_value: s before the first step, not its root (default 1e-2).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: no tensor.

    Example:
        >>> import torch
        >>> from thalweg.optim import AdagradNorm
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = AdagradNorm(model, lr=1.0)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 1e-2,
        **options: Any,
    ) -> None:
        rule = scale_by_accumulator(accumulator=float(initial_accumulator_value))
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, **options)

    def _look_at_group(self, group: dict[str, Any]) -> None:
        first = self.param_groups[0]
        if group is first:
            norm = gradient_norm([p for every in self.param_groups for p in every["params"]])
            group["accumulator"] = float(group["accumulator"]) + norm**2
        group["accumulator"] = first["accumulator"]
