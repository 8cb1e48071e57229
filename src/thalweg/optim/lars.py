"""LARS: momentum with layer-wise learning rates (arXiv:1708.03888, and arXiv:1904.00962's form)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.lamb import layerwise_groups
from thalweg.optim.momentum import momentum as momentum_of
from thalweg.optim.trust_ratio import lars_ratio, trust_ratio
from thalweg.optim.weight_decay import add_decayed_weights
from thalweg.registry import method


@method("lars", search={"lr": ("log", 1e-1, 1e2), "weight_decay": ("log", 1e-6, 1e-2)})
class Lars(ChainedOptimizer):
    r"""Layer-wise adaptive rate scaling, in its two published forms (arXiv:1708.03888, arXiv:1904.00962).

    ``variant="lars2017"`` scales before the momentum (arXiv:1708.03888):

    .. math:: b \leftarrow \mu b + \frac{c\|p\|}{\|g\| + \lambda\|p\| + \epsilon} (g + \lambda p), \qquad p \leftarrow p - \eta b

    ``variant="lamb-paper"`` normalizes after it (arXiv:1904.00962), without coefficient:

    .. math:: b \leftarrow \mu b + (1-\mu)(g + \lambda p), \qquad p \leftarrow p - \eta\,\frac{\|p\|}{\|b\|}\, b

    The learning rate multiplies the buffer, as in torch's SGD; the first publication multiplies what goes into it, which is the same
    while the rate is constant.

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
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a parameter, ``momentum_buffer``.

    Raises:
        ValueError: an unknown variant, or Nesterov with "lamb-paper".

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
        trust_coefficient: float = 1e-3,
        eps: float = 1e-8,
        nesterov: bool = False,
        variant: Literal["lars2017", "lamb-paper"] = "lars2017",
        **options: Any,
    ) -> None:
        if variant == "lars2017":
            chain = lars_ratio(trust_coefficient=trust_coefficient, weight_decay=weight_decay, eps=eps) >> momentum_of(
                momentum=momentum, nesterov=nesterov
            )
        elif variant == "lamb-paper":
            if nesterov:
                raise ValueError("nesterov belongs to variant 'lars2017'")
            chain = (
                add_decayed_weights(weight_decay=weight_decay)
                >> momentum_of(momentum=momentum, ema=True)
                >> trust_ratio()
            )
        else:
            raise ValueError(f"unknown variant {variant!r} (choose from lars2017, lamb-paper)")
        super().__init__(params, chain, lr=lr, **options)

    groups_for = staticmethod(layerwise_groups)
