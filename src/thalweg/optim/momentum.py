"""Momentum, and SGD made of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.registry import method


@elementwise(state=("momentum_buffer",))
def momentum(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    ema: bool = False,
) -> Tensor:
    r"""A running sum (heavy ball), or with ``ema`` a running mean, of the updates.

    .. math::
        b \leftarrow \mu b + c\, g, \qquad u = b \;\text{ or, with Nesterov, }\; c\, g + \mu b,
        \qquad c = 1 \;\text{ or, as a mean, }\; 1 - \mu

    Example:
        >>> from thalweg.optim import Chained, momentum
        >>> p = nn.Parameter(torch.zeros(1))
        >>> optimizer = Chained([p], momentum(momentum=0.5), lr=1.0)
        >>> for _ in range(3):
        ...     p.grad = torch.ones(1)
        ...     optimizer.step()
        ...     print(p.item())
        -1.0
        -2.5
        -4.25
    """
    fresh = (1 - momentum) * update if ema else update
    buffer = state["momentum_buffer"] = momentum * state["momentum_buffer"] + fresh
    return fresh + momentum * buffer if nesterov else buffer


@method(
    "sgd",
    search={"lr": ("log", 1e-3, 1.0), "weight_decay": ("log", 1e-6, 1e-2)},
    use="Convolutional networks with normalization, or where only one state tensor fits; its learning rate needs a wide search.",
)
class SGD(ChainedOptimizer):
    r"""Stochastic gradient descent with momentum; the weight decay is decoupled.

    .. math:: b \leftarrow \mu b + g, \qquad p \leftarrow (1 - \eta\lambda) p - \eta b

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        lr: learning rate (default 0.01).
        momentum: factor of the old buffer (default 0.9).
        nesterov: look one step ahead (default False).
        weight_decay: decoupled decay rate (default 0). Torch's SGD adds the decay to the gradient instead:
            ``Chained(params, add_decayed_weights(weight_decay=...) >> momentum(), lr=...)``.
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a parameter, ``momentum_buffer``.

    Example:
        >>> import torch
        >>> from thalweg.optim import SGD
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = SGD(model, lr=0.1, nesterov=True)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        chain = _momentum(momentum=momentum, nesterov=nesterov)
        super().__init__(params, chain, lr=lr, weight_decay=weight_decay, **options)


_momentum = momentum  # the constructor's argument hides the transform's name
