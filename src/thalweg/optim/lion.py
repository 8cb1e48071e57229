"""Lion: the sign of a short interpolation between momentum and gradient (arXiv:2302.06675)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.sign import sign
from thalweg.registry import method


@elementwise(state=("exp_avg",))
def interpolated_momentum(
    update: Tensor, param: Tensor, state: dict[str, Tensor], *, betas: tuple[float, float] = (0.9, 0.99)
) -> Tensor:
    r"""A running mean of the gradients, mixed with the fresh one by weights of its own.

    .. math:: c = \beta_1 m + (1-\beta_1) g, \qquad m \leftarrow \beta_2 m + (1-\beta_2) g

    Example:
        >>> from thalweg.optim import Chained, interpolated_momentum
        >>> p = nn.Parameter(torch.zeros(1))
        >>> optimizer = Chained([p], interpolated_momentum(betas=(0.5, 0.75)), lr=1.0)
        >>> for _ in range(2):
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        ...     print(p.item(), optimizer.state[p]["exp_avg"].item())
        -0.5 0.25
        -1.125 0.4375
    """
    beta1, beta2 = betas
    old = state["exp_avg"]
    state["exp_avg"] = beta2 * old + (1 - beta2) * update
    return beta1 * old + (1 - beta1) * update


@elementwise(state=("exp_avg",))
def lion_direction(
    update: Tensor, param: Tensor, state: dict[str, Tensor], *, betas: tuple[float, float] = (0.9, 0.99)
) -> Tensor:
    r"""The sign of an interpolation that weighs the fresh gradient more than the momentum buffer will.

    .. math:: u = \mathrm{sign}(\beta_1 m + (1-\beta_1) g), \qquad m \leftarrow \beta_2 m + (1-\beta_2) g

    Example:
        >>> from thalweg.optim import Chained, lion_direction
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], lion_direction(), lr=0.1).step()
        >>> p.data
        tensor([2.9000, 4.1000])
    """
    return sign(interpolated_momentum.update(update, param, state, betas=betas))


@method(
    "lion",
    search={"lr": ("log", 1e-5, 1e-2), "weight_decay": ("log", 1e-2, 10.0)},
    use="Where AdamW's second moment doesn't fit, or batches are large; search its learning rate and decay anew.",
)
class Lion(ChainedOptimizer):
    r"""Sign momentum with two interpolations, found by program search (arXiv:2302.06675).

    .. math::
        c = \beta_1 m + (1-\beta_1) g, \quad p \leftarrow (1 - \eta\lambda) p - \eta\, \mathrm{sign}(c), \quad
        m \leftarrow \beta_2 m + (1-\beta_2) g

    Every weight moves by exactly ``lr`` (before decay), whatever the size of its gradient, so ``lr`` must be smaller than AdamW's:
    start at a third to a tenth of it, with ``weight_decay`` larger by the same factor.

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        lr: learning rate (default 1e-4).
        betas: weight of the past in the step and in the buffer (default (0.9, 0.99); the paper's language models: (0.95, 0.98)).
        weight_decay: decoupled decay rate (default 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a parameter, ``exp_avg``; no step count.

    Example:
        >>> import torch
        >>> from thalweg.optim import Lion
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = Lion(model, lr=1e-4, weight_decay=0.1)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(params, lion_direction(betas=betas), lr=lr, weight_decay=weight_decay, **options)
