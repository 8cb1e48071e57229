"""Layer-wise step sizes: every tensor moves by the same share of its own norm."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.optim.engine import layerwise


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
    adapt: bool = True,
) -> Tensor:
    r"""Scale the update to the norm of its parameter tensor (arXiv:1904.00962).

    .. math:: u \leftarrow \frac{\phi(\|p\|)}{\|u\|} u, \qquad \phi(z) = \min(\max(z, low), high)

    The ratio is 1 where either norm is 0, and for groups with ``adapt=False``. ``clamp_norm`` is (low, high); None: the identity.
    """
    if sums is None:
        return update
    weight, step = sums[0].sqrt(), sums[1].sqrt()
    target = weight if clamp_norm is None else weight.clamp(clamp_norm[0], clamp_norm[1])
    return update * torch.where((weight > 0) & (step > 0), target / step, torch.ones_like(step))


@layerwise(sums=norms_squared, switch="adapt")
def lars_ratio(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    sums: tuple[Tensor, Tensor] | None,
    *,
    trust_coefficient: float = 1e-3,
    weight_decay: float = 1e-4,
    eps: float = 1e-8,
    adapt: bool = True,
) -> Tensor:
    r"""The local learning rate of LARS as first published (arXiv:1708.03888), with its coupled weight decay.

    .. math:: u \leftarrow \frac{c \|p\|}{\|u\| + \lambda \|p\| + \epsilon} (u + \lambda p)

    The ratio is 1 where either norm is 0, and for groups with ``adapt=False``.
    """
    decayed = update + weight_decay * param
    if sums is None:
        return decayed
    weight, step = sums[0].sqrt(), sums[1].sqrt()
    ratio = trust_coefficient * weight / (step + weight_decay * weight + eps)
    return decayed * torch.where((weight > 0) & (step > 0), ratio, torch.ones_like(ratio))
