"""AdamW, the baseline that every race needs; written as a chain like the rest."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.registry import method


def bias_corrections(step: int, betas: tuple[float, float], bias_correction: bool = True, **_: Any) -> dict[str, float]:
    """Factors that make up for zero-initialized running means after ``step`` updates (for the second moment, of its root).

    Factors and not divisors: dividing is what would take longest in the fused pass.
    """
    if not bias_correction:
        return {"correction1": 1.0, "correction2": 1.0}
    return {"correction1": 1 / (1 - betas[0] ** step), "correction2": (1 - betas[1] ** step) ** -0.5}


@elementwise(state=("exp_avg", "exp_avg_sq"), prepare=bias_corrections)
def adam_direction(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    correction1: Any,
    correction2: Any,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    bias_correction: bool = True,
    nesterov: bool = False,
) -> Tensor:
    r"""Adam's direction: the running mean of the gradient over the root of the running mean of its square.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \qquad
        u = \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    Without ``bias_correction`` the two divisors :math:`1-\beta^t` are 1. With ``nesterov`` the numerator is one step ahead,
    :math:`\beta_1 m + (1-\beta_1) g` instead of m.

    Example:
        >>> from thalweg.optim import Chained, adam_direction
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], adam_direction(), lr=0.1).step()
        >>> p.data
        tensor([2.9000, 4.1000])
    """
    beta1, beta2 = betas
    mean = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * update
    square = state["exp_avg_sq"] = beta2 * state["exp_avg_sq"] + (1 - beta2) * (update * update)
    if nesterov:
        mean = beta1 * mean + (1 - beta1) * update
    return (mean * correction1) / (square.sqrt() * correction2 + eps)


@method(
    "adamw",
    search={"lr": ("log", 1e-4, 3e-2), "weight_decay": ("log", 1e-3, 1.0)},
    use="The rule to begin with and to race all others against.",
)
class AdamW(ChainedOptimizer):
    r"""Adam with decoupled weight decay (arXiv:1711.05101).

    .. math:: p \leftarrow (1 - \eta\lambda) p - \eta u, \qquad u \text{ as in } \texttt{adam\_direction}

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        lr: learning rate (default 1e-3).
        betas: decay rates of the running means of the gradient and of its square (default (0.9, 0.999)).
        eps: added to the root of the second moment (default 1e-8).
        weight_decay: decoupled decay rate (default 0.01).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: two tensors a parameter, ``exp_avg`` and ``exp_avg_sq``.

    Example:
        >>> import torch
        >>> from thalweg.optim import AdamW
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = AdamW(model, lr=1e-3)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(params, adam_direction(betas=betas, eps=eps), lr=lr, weight_decay=weight_decay, **options)
