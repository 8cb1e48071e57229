"""LAMB: Adam's direction, scaled to the norm of each layer (arXiv:1904.00962)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from thalweg.optim.adamw import adam_direction
from thalweg.optim.engine import Chain, ChainedOptimizer
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.gradient_clipping import clip_gradient_norm
from thalweg.optim.trust_ratio import trust_ratio
from thalweg.optim.weight_decay import add_decayed_weights
from thalweg.registry import method


def layerwise_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups for layer-wise rules: biases, norm gains and scalars are neither decayed nor adapted.

    Example:
        >>> from thalweg.optim import layerwise_groups
        >>> [(group.get("adapt", True), [name for name, _ in group["params"]]) for group in layerwise_groups(nn.Linear(2, 2))]
        [(True, ['weight']), (False, ['bias'])]
    """
    groups = ChainedOptimizer.groups_for(model)
    for group in groups:
        if "weight_decay" in group:
            group["adapt"] = False
    return groups


@method(
    "lamb",
    search={"lr": ("log", 1e-4, 1e-1), "weight_decay": ("log", 1e-3, 1.0)},
    use="Batches of thousands of examples, where one learning rate doesn't suit all layers.",
)
class Lamb(ChainedOptimizer):
    r"""Layer-wise adaptive moments for large batches (arXiv:1904.00962).

    .. math::
        r = \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon} + \lambda p, \qquad
        p \leftarrow p - \eta\, \frac{\phi(\|p\|)}{\|r\|}\, r

    ``adam_direction >> add_decayed_weights >> trust_ratio``: every adapted tensor moves by the share ``lr`` of its own norm, and the
    decay is part of the direction that is normalized. This is the paper's second algorithm.

    Packages call different rules LAMB. Each difference is a setting here:

    - apex and timm clip the gradient by its norm over the whole net: ``max_grad_norm=1.0``;
    - timm and apex leave tensors without weight decay unadapted (unless told ``always_adapt``, ``use_nvlamb``): ``adapt=False`` in the
      group;
    - timm's ``trust_clip`` bounds the ratio by 1: ``clamp_ratio=(0, 1)``;
    - pytorch_optimizer bounds weight norms by 10 and adds eps to the direction's: ``clamp_norm=(0, 10), norm_eps=1e-6``; by default it
      corrects the learning rate but not the means: ``bias_correction=False`` with a warm-up;
    - decay beside the normalized direction instead of in it: ``decoupled=True``.

    Args:
        params: parameters, named parameters, parameter groups, or a module (see :func:`layerwise_groups`). A group with
            ``adapt=False`` takes plain Adam steps.
        lr: learning rate (default 1e-3).
        betas: decay rates of the running means (default (0.9, 0.999)).
        eps: added to the root of the second moment (default 1e-6).
        weight_decay: decay inside the direction (default 0.01).
        clamp_norm: (low, high) bounds of the weight norm in the ratio (default None: no bounds). A lower bound lets tensors that
            start at zero grow.
        bias_correction: whether the running means are divided by :math:`1-\beta^t` (default True; the paper's last version goes
            without, which a warm-up of the learning rate makes about the same).
        clamp_ratio: (low, high) bounds of the ratio itself (default None).
        norm_eps: added to the direction's norm in the ratio (default 0).
        decoupled: decay the weights apart from the direction, as AdamW does (default False).
        max_grad_norm: the gradients are scaled down together where their norm over all parameters exceeds this (default None: never).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: ``exp_avg`` and ``exp_avg_sq``.

    Example:
        >>> import torch
        >>> from thalweg.optim import Lamb
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = Lamb(model, lr=1e-2)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        clamp_norm: tuple[float, float] | None = None,
        bias_correction: bool = True,
        clamp_ratio: tuple[float, float] | None = None,
        norm_eps: float = 0.0,
        decoupled: bool = False,
        max_grad_norm: float | None = None,
        **options: Any,
    ) -> None:
        chain = Chain.of(adam_direction(betas=betas, eps=eps, bias_correction=bias_correction))
        if max_grad_norm is not None:
            chain = clip_gradient_norm(max_norm=max_grad_norm).rename(max_norm="max_grad_norm") >> chain
        if not decoupled:
            chain = chain >> add_decayed_weights(weight_decay=weight_decay)
        chain = chain >> trust_ratio(clamp_norm=clamp_norm, clamp_ratio=clamp_ratio, norm_eps=norm_eps)
        super().__init__(params, chain, lr=lr, weight_decay=weight_decay if decoupled else 0.0, **options)

    groups_for = staticmethod(layerwise_groups)
