"""AdaGrad: every weight's step divided by the root of all its squared gradients."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.registry import method


@elementwise(state=("sum",))
def adagrad_direction(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    eps: float = 1e-10,
    initial_accumulator_value: float = 0.0,
) -> Tensor:
    r"""The gradient over the root of the sum of its squares; see :class:`Adagrad`.

    Example:
        >>> from thalweg.optim import Chained, adagrad_direction
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], adagrad_direction(), lr=0.1).step()
        >>> p.data
        tensor([2.9000, 4.1000])
    """
    total = state["sum"] = state["sum"] + update * update
    return update / ((total + initial_accumulator_value).sqrt() + eps)


@method(
    "adagrad",
    search={"lr": ("log", 1e-3, 1.0), "weight_decay": ("log", 1e-6, 1e-2)},
    use="Sparse or seldom active features and convex problems; its steps only shrink, so not for long trainings.",
)
class Adagrad(ChainedOptimizer):
    r"""AdaGrad with one accumulator a weight (Duchi, Hazan and Singer 2011), which AdAdaGrad grows batches for (arXiv:2402.11215).

    .. math:: s \leftarrow s + g^2, \qquad p \leftarrow (1-\eta\lambda) p - \eta\, \frac{g}{\sqrt{s_0 + s} + \epsilon}

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        lr: learning rate (default 1e-2); the steps fall by themselves.
        eps: added to the root (default 1e-10).
        weight_decay: decoupled decay rate (default 0).
        initial_accumulator_value: :math:`s_0` (default 0; the paper 1e-2); it isn't stored in the state's ``sum``, as torch does.
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a parameter, ``sum``.

    Example:
        >>> import torch
        >>> from thalweg.optim import Adagrad
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = Adagrad(model, lr=0.1)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        **options: Any,
    ) -> None:
        rule = adagrad_direction(eps=eps, initial_accumulator_value=initial_accumulator_value)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, **options)
