"""Layer-wise step sizes: every tensor moves by the same share of its own norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, layerwise
from thalweg.optim.engine.once import once
from thalweg.optim.engine.watching import watch


def norms_squared(update: Tensor, param: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of the parameter and of its update."""
    return (param * param).sum(), (update * update).sum()


@layerwise(sums=norms_squared, switch="adapt")
def trust_ratio(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    sums: tuple[Tensor, Tensor] | None,
    *,
    clamp_norm: tuple[float, float] | None = None,
    clamp_ratio: tuple[float, float] | None = None,
    norm_eps: float = 0.0,
    adapt: bool = True,
) -> Tensor:
    r"""Scale the update to the norm of its parameter tensor (arXiv:1904.00962).

    .. math:: u \leftarrow r u, \qquad r = \frac{\phi(\|p\|)}{\|u\| + \epsilon}, \qquad \phi(z) = \min(\max(z, low), high)

    The ratio r is 1 where either norm is 0, and for groups with ``adapt=False``. ``clamp_norm`` is (low, high); None: the identity.
    ``clamp_ratio`` bounds r itself in the same way, and ``norm_eps`` is the :math:`\epsilon`; both are variants that packages add.

    Example:
        >>> from thalweg.optim import Chained, trust_ratio
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([6.0, -8.0])
        >>> Chained([p], trust_ratio(), lr=0.1).step()
        >>> p.data
        tensor([2.7000, 4.4000])
    """
    if sums is None:
        return update
    return update * once(_trust(sums, clamp_norm, clamp_ratio, norm_eps).to(update.dtype))


@layerwise(sums=norms_squared, switch="adapt")
def lars_ratio(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    sums: tuple[Tensor, Tensor] | None,
    *,
    lr: Any,
    trust_coefficient: float = 1e-3,
    weight_decay: float = 1e-4,
    eps: float = 1e-8,
    clip: bool = False,
    adapt: bool = True,
) -> Tensor:
    r"""The local learning rate of LARS as first published (arXiv:1708.03888), with its coupled weight decay.

    .. math:: u \leftarrow r (u + \lambda p), \qquad r = \frac{c \|p\|}{\|u\| + \lambda \|p\| + \epsilon}

    The ratio r is 1 where either norm is 0, and for groups with ``adapt=False``. With ``clip`` it is :math:`\min(r / \eta, 1)`, which
    makes the learning rate :math:`\eta` an upper bound of the local one, :math:`\eta r`.

    Example:
        >>> from thalweg.optim import Chained, lars_ratio
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([6.0, -8.0])
        >>> Chained([p], lars_ratio(trust_coefficient=0.1), lr=1.0).step()
        >>> p.data
        tensor([2.7000, 4.4000])
    """
    decayed = update + weight_decay * param
    if sums is None:
        return decayed
    return decayed * once(_lars(sums, lr, trust_coefficient, weight_decay, eps, clip).to(update.dtype))


def _trust(sums: tuple[Tensor, Tensor], clamp_norm: Any, clamp_ratio: Any, norm_eps: Any) -> Tensor:
    weight, step = sums[0].sqrt(), sums[1].sqrt()
    target = weight if clamp_norm is None else weight.clamp(clamp_norm[0], clamp_norm[1])
    ratio = target / (step + norm_eps)
    if clamp_ratio is not None:
        ratio = ratio.clamp(clamp_ratio[0], clamp_ratio[1])
    return torch.where((weight > 0) & (step > 0), ratio, torch.ones_like(ratio))


def _lars(sums: tuple[Tensor, Tensor], lr: Any, coefficient: Any, weight_decay: Any, eps: Any, clip: bool) -> Tensor:
    weight, step = sums[0].sqrt(), sums[1].sqrt()
    ratio = coefficient * weight / (step + weight_decay * weight + eps)
    if clip:
        ratio = (ratio / lr).clamp(max=1.0)
    return torch.where((weight > 0) & (step > 0), ratio, torch.ones_like(ratio))


def trust_ratios(optimizer: ChainedOptimizer) -> dict[str, float]:
    """The ratio by which the next step would scale each tensor's update, given the gradients as they are.

    Called before ``step()`` it says what that step will use. Layers with a ratio far from the others' are those for which one
    learning rate for all would not do.

    Args:
        optimizer: one with :func:`trust_ratio` or :func:`lars_ratio` in its chain, such as ``Lamb`` or ``Lars``. It is not changed;
            for a moment there is a copy of its parameters and state. Under FSDP2 all processes must call this together.

    Returns:
        By name (or by number, for parameters given without names): the ratio, 1 for groups with ``adapt=False``; only parameters with
        a gradient.

    Raises:
        ValueError: the optimizer has no such transform.

    Example:
        >>> import torch
        >>> from thalweg.optim import Lamb
        >>> model = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(model.weight, 3.0)
        >>> optimizer = Lamb(model, weight_decay=0.0)
        >>> model(torch.ones(8, 2)).sum().backward()
        >>> {name: round(ratio, 3) for name, ratio in trust_ratios(optimizer).items()}
        {'weight': 3.0, 'bias': 1.0}
    """

    def trust(sums: Any, given: dict[str, Any]) -> float:
        return (
            1.0 if sums is None else _trust(sums, given["clamp_norm"], given["clamp_ratio"], given["norm_eps"]).item()
        )

    def lars(sums: Any, given: dict[str, Any]) -> float:
        names = ("lr", "trust_coefficient", "weight_decay", "eps", "clip")
        return 1.0 if sums is None else _lars(sums, *(given[name] for name in names)).item()

    return watch(optimizer, {trust_ratio: trust, lars_ratio: lars})
