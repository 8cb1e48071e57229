"""LARS: momentum with layer-wise learning rates (arXiv:1708.03888, and arXiv:1904.00962's form)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.lamb import layerwise_groups
from thalweg.optim.momentum import momentum as momentum_of
from thalweg.optim.trust_ratio import lars_ratio, trust_ratio
from thalweg.optim.weight_decay import add_decayed_weights
from thalweg.registry import method

TRUST_COEFFICIENT, EPS = 1e-3, 1e-8
"""Defaults of "lars2017"; other values are refused by the other variant, which has neither."""


@elementwise(state=("momentum_buffer",))
def step_momentum(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    lr: Any,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Tensor:
    r"""Heavy ball over whole steps: the learning rate of its time stays with each step in the buffer.

    .. math:: b \leftarrow \mu b + \eta g, \qquad u = b / \eta \;\text{ or, with Nesterov, }\; (\eta g + \mu b) / \eta

    With a constant rate this is ``momentum``; when the rate falls, old steps go on at their old size. At rate 0 nothing moves.
    """
    buffer = state["momentum_buffer"] = momentum * state["momentum_buffer"] + lr * update
    step = lr * update + momentum * buffer if nesterov else buffer
    moving = torch.as_tensor(lr, dtype=update.dtype) > 0
    return torch.where(moving, step / lr, torch.zeros_like(step))


@method(
    "lars",
    search={"lr": ("log", 1e-1, 1e2), "weight_decay": ("log", 1e-6, 1e-2)},
    use="Convolutional networks with SGD and batches of thousands of examples.",
)
class Lars(ChainedOptimizer):
    r"""Layer-wise adaptive rate scaling, in its two published forms (arXiv:1708.03888, arXiv:1904.00962).

    ``variant="lars2017"`` scales before the momentum (arXiv:1708.03888):

    .. math:: b \leftarrow \mu b + \frac{c\|p\|}{\|g\| + \lambda\|p\| + \epsilon} (g + \lambda p), \qquad p \leftarrow p - \eta b

    ``variant="lamb-paper"`` normalizes after it (arXiv:1904.00962), without coefficient:

    .. math:: b \leftarrow \mu b + (1-\mu)(g + \lambda p), \qquad p \leftarrow p - \eta\,\frac{\|p\|}{\|b\|}\, b

    The learning rate multiplies the buffer, as in torch's SGD; the first publication multiplies what goes into it
    (``lr_in_buffer=True``), which is the same while the rate is constant.

    Packages differ here too: timm leaves tensors without weight decay unadapted, and pytorch_optimizer those of one dimension
    (``adapt=False`` in the group does both); apex's LARC makes ``lr`` an upper bound of the local rate (``clip=True``, timm's
    ``trust_clip``).

    Args:
        params: parameters, named parameters, parameter groups, or a module (see :func:`~thalweg.optim.layerwise_groups`). A group
            with ``adapt=False`` takes plain momentum steps of size ``lr``: under "lars2017" that is some
            1/``trust_coefficient`` times larger than the others', so give it an ``lr`` of its own.
        lr: learning rate (default 1.0).
        momentum: factor of the old buffer (default 0.9).
        weight_decay: coupled decay (default 1e-4).
        trust_coefficient: c above; "lars2017" only (default 1e-3).
        eps: added to the norms; "lars2017" only (default 1e-8).
        nesterov: look one step ahead; "lars2017" only (default False).
        variant: which form (default "lars2017").
        clip: take ``lr`` as an upper bound of each layer's rate; "lars2017" only (default False).
        lr_in_buffer: the learning rate multiplies what goes into the buffer; "lars2017" only (default False).
        clamp_norm: (low, high) bounds of the weight norm; "lamb-paper" only (default None).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a parameter, ``momentum_buffer``.

    Raises:
        ValueError: an unknown variant, or a setting of the other one.

    Example:
        >>> import torch
        >>> from thalweg.optim import Lars
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = Lars(model, lr=1.0)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        trust_coefficient: float = TRUST_COEFFICIENT,
        eps: float = EPS,
        nesterov: bool = False,
        variant: Literal["lars2017", "lamb-paper"] = "lars2017",
        clip: bool = False,
        lr_in_buffer: bool = False,
        clamp_norm: tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        if variant == "lars2017":
            if clamp_norm is not None:
                raise ValueError("clamp_norm belongs to variant 'lamb-paper'")
            buffer = step_momentum if lr_in_buffer else momentum_of
            chain = lars_ratio(
                trust_coefficient=trust_coefficient, weight_decay=weight_decay, eps=eps, clip=clip
            ) >> buffer(momentum=momentum, nesterov=nesterov)
        elif variant == "lamb-paper":
            own = {"trust_coefficient": trust_coefficient != TRUST_COEFFICIENT, "eps": eps != EPS}
            own |= {"nesterov": nesterov, "clip": clip, "lr_in_buffer": lr_in_buffer}
            for name, given in own.items():
                if given:
                    raise ValueError(f"{name} belongs to variant 'lars2017'")
            chain = (
                add_decayed_weights(weight_decay=weight_decay)
                >> momentum_of(momentum=momentum, ema=True)
                >> trust_ratio(clamp_norm=clamp_norm)
            )
        else:
            raise ValueError(f"unknown variant {variant!r} (choose from lars2017, lamb-paper)")
        super().__init__(params, chain, lr=lr, **options)

    groups_for = staticmethod(layerwise_groups)
