"""AdaBelief: Adam whose denominator measures how far the gradient is from its own prediction (arXiv:2010.07468)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine import Chain, ChainedOptimizer, Transform, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.weight_decay import add_decayed_weights
from thalweg.registry import method


def belief_factors(
    step: int, betas: tuple[float, float], eps: float, rectify: bool = False, **_: Any
) -> dict[str, float]:
    r"""What makes one formula, ``u = scale * m / (root * sqrt(s) + floor)``, the plain and both phases of the rectified rule.

    The rectified rule (RAdam's) is momentum without a denominator while the variance of :math:`1/\sqrt s` is unbounded, which for
    :math:`\beta_2 = 0.999` is the first five steps.
    """
    beta1, beta2 = betas
    scale = 1 / (1 - beta1**step)
    corrected = 1 - beta2**step
    if not rectify:
        return {"scale": scale, "root": corrected**-0.5, "floor": eps}
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / corrected
    if length < 5:
        return {"scale": scale, "root": 0.0, "floor": 1.0}
    rectifier = (length - 4) / (longest - 4) * (length - 2) / (longest - 2) * longest / length
    return {"scale": scale * (corrected * rectifier) ** 0.5, "root": 1.0, "floor": eps}


def _moments(update: Tensor, state: dict[str, Tensor], betas: tuple[float, float], eps: float) -> tuple[Tensor, Tensor]:
    """The running mean, and the running square of what the new mean leaves over."""
    beta1, beta2 = betas
    mean = state["exp_avg"] = beta1 * state["exp_avg"] + (1 - beta1) * update
    surprise = update - mean
    var = state["exp_avg_var"] = beta2 * state["exp_avg_var"] + (1 - beta2) * (surprise * surprise) + eps
    return mean, var


@elementwise(state=("exp_avg", "exp_avg_var"), prepare=belief_factors)
def adabelief_direction(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    scale: Any,
    root: Any,
    floor: Any,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-16,
    rectify: bool = False,
) -> Tensor:
    r"""AdaBelief's direction; see :class:`AdaBelief`.

    Example:
        >>> from thalweg.optim import Chained, adabelief_direction
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], adabelief_direction(), lr=0.1).step()
        >>> p.data
        tensor([2.8889, 4.1111])
    """
    mean, var = _moments(update, state, betas, eps)
    return (mean * scale) / (var.sqrt() * root + floor)


@elementwise(state=("exp_avg", "exp_avg_var", "max_exp_avg_var"), prepare=belief_factors)
def adabelief_amsgrad_direction(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    scale: Any,
    root: Any,
    floor: Any,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-16,
    rectify: bool = False,
) -> Tensor:
    r"""AdaBelief's direction over the largest denominator so far; see :class:`AdaBelief`.

    Example:
        >>> from thalweg.optim import Chained, adabelief_amsgrad_direction
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], adabelief_amsgrad_direction(), lr=0.1).step()
        >>> p.data
        tensor([2.8889, 4.1111])
    """
    mean, var = _moments(update, state, betas, eps)
    largest = state["max_exp_avg_var"] = torch.maximum(state["max_exp_avg_var"], var)
    return (mean * scale) / (largest.sqrt() * root + floor)


@method(
    "adabelief",
    search={"lr": ("log", 1e-4, 3e-2), "weight_decay": ("log", 1e-3, 1.0)},
    use="As a rival of AdamW at the same cost: race the two.",
)
class AdaBelief(ChainedOptimizer):
    r"""Adam with the squared surprise in place of the squared gradient (arXiv:2010.07468).

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad s \leftarrow \beta_2 s + (1-\beta_2)(g - m)^2 + \epsilon, \quad
        p \leftarrow (1 - \eta\lambda) p - \eta\,\frac{m / (1-\beta_1^t)}{\sqrt{s / (1-\beta_2^t)} + \epsilon}

    :math:`g - m` uses the **new** mean. A gradient that is as predicted gives a long step, a surprising one a short step.
    ``eps`` enters twice: outside the root, and at every step into the state, where it adds up to :math:`\epsilon / (1-\beta_2)`.
    So the denominator is never below about :math:`\sqrt{1000\,\epsilon}`, which is 3e-7 by default, and it is this floor that bounds
    the steps where gradients carry no noise: they grow, the more predictable the longer. Compare with Adam at equal floors.

    Versions of the authors' package differ in their defaults; as here, the paper neither rectifies nor decays.

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed).
        lr: learning rate (default 1e-3).
        betas: decay rates of the running means (default (0.9, 0.999)); the first must be above 0.
        eps: see above (default 1e-16; the paper takes 1e-8 where it compares with SGD on small images).
        weight_decay: decay rate (default 0).
        decoupled: decay the weights (default), or add ``weight_decay * p`` to the gradient.
        rectify: RAdam's warm-up: momentum alone in the first steps, then a factor that grows to 1 (default False).
        amsgrad: divide by the largest ``s`` so far, in the rectified rule as well (default False).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: two tensors a parameter, ``exp_avg`` and ``exp_avg_var``; with ``amsgrad`` a third, ``max_exp_avg_var``.

    Raises:
        ValueError: ``betas[0]`` is 0: nothing is ever surprising then, and the step is the gradient over a rounding error.

    Example:
        >>> import torch
        >>> from thalweg.optim import AdaBelief
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = AdaBelief(model, lr=1e-3)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        decoupled: bool = True,
        rectify: bool = False,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        kind = adabelief_amsgrad_direction if amsgrad else adabelief_direction
        rule: Chain | Transform = kind(betas=betas, eps=eps, rectify=rectify)
        if float(betas[0]) == 0:
            raise ValueError("AdaBelief needs betas[0] > 0: without a running mean no gradient differs from it")
        if decoupled:
            options["weight_decay"] = weight_decay
        else:
            rule = add_decayed_weights(weight_decay=weight_decay) >> rule
        super().__init__(params, rule, lr=lr, **options)
