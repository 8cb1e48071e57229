"""SGDP: momentum SGD that doesn't lengthen scale-invariant weights (arXiv:2006.08217)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.optim.engine import ChainedOptimizer, elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.momentum import momentum as momentum_of
from thalweg.optim.radial_projection import momentum_projection
from thalweg.registry import method


@elementwise()
def dampened(update: Tensor, param: Tensor, state: dict[str, Tensor], *, dampening: float = 0.0) -> Tensor:
    r"""Weaken what goes into a momentum buffer, its first entry included: :math:`u \leftarrow (1 - d) u`."""
    return (1 - dampening) * update


@method(
    "sgdp",
    search={"lr": ("log", 1e-3, 1.0), "weight_decay": ("log", 1e-6, 1e-2)},
    use="Networks whose weights are followed by a normalization, where SGD with momentum is the rule that works.",
)
class SGDP(ChainedOptimizer):
    r"""Momentum SGD whose updates of scale-invariant weights lose their radial part (arXiv:2006.08217).

    .. math::
        b \leftarrow \mu b + (1-d) g, \qquad
        p \leftarrow \left(1 - \frac{\eta\lambda\rho}{1-\mu}\right) p - \eta\, \Pi(b)

    :math:`\Pi` and :math:`\rho` are those of :func:`~thalweg.optim.radial_projection`; why, see :class:`~thalweg.optim.AdamP`. The
    buffer itself isn't projected. (The authors' package does project it when ``nesterov`` is off, since both are one tensor there;
    the equations of the paper don't.) With Nesterov the update is :math:`g + \mu b`.

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed). Groups with
            ``project=False`` are never projected, nor is anything of fewer than two dimensions.
        lr: learning rate (default 0.01).
        momentum: factor of the old buffer (default 0.9).
        dampening: the gradient enters with weight ``1 - dampening``, at the first step too (default 0).
        nesterov: look one step ahead (default False).
        weight_decay: decoupled decay rate, before the factor :math:`1/(1-\mu)` above (default 0).
        delta: threshold of the test for scale invariance (default 0.1; 0 switches the projection off).
        wd_ratio: factor of the decay of projected tensors, in [0, 1] (default 0.1).
        eps: lower bound of norms in the projection (default 1e-8).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a parameter, ``momentum_buffer``.

    Raises:
        ValueError: a value out of range, complex parameters, or Nesterov without momentum or with dampening.

    Example:
        >>> import torch
        >>> from thalweg.optim import SGDP
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.BatchNorm1d(3))
        >>> optimizer = SGDP(model, lr=0.1, weight_decay=1e-4)
        >>> model(torch.randn(8, 4)).exp().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        eps: float = 1e-8,
        **options: Any,
    ) -> None:
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("nesterov needs a momentum above 0 and dampening=0")
        chain = (
            dampened(dampening=dampening)
            >> momentum_of(momentum=momentum, nesterov=nesterov)
            >> momentum_projection(
                momentum=momentum, weight_decay=weight_decay, delta=delta, wd_ratio=wd_ratio, eps=eps
            )
        )
        super().__init__(params, chain, lr=lr, **options)
