"""AdamP: Adam that doesn't lengthen scale-invariant weights (arXiv:2006.08217)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.optim.adamw import adam_direction
from thalweg.optim.engine import ChainedOptimizer
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.radial_projection import radial_projection
from thalweg.registry import method


@method(
    "adamp",
    search={"lr": ("log", 1e-4, 3e-2), "weight_decay": ("log", 1e-3, 1.0)},
    use="Networks whose weights are followed by a normalization, where AdamW makes their norms grow.",
)
class AdamP(ChainedOptimizer):
    r"""Adam whose updates of scale-invariant weights lose their radial part (arXiv:2006.08217).

    .. math:: p \leftarrow (1 - \eta\lambda\rho)\, p - \eta\, \Pi(u), \qquad u \text{ as in } \texttt{adam\_direction}

    Weights in front of a normalization layer may be scaled without changing the loss. Momentum makes them longer at every step,
    and long weights turn slowly: the effective learning rate falls faster than anyone asked for. :math:`\Pi` takes the radial part
    out of the update of tensors that look scale invariant, and :math:`\rho` lowers their decay; see
    :func:`~thalweg.optim.radial_projection`. Without normalization layers this is AdamW, nearly: see
    :func:`~thalweg.optim.radial_projections` for what is projected in your model.

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed). Groups with
            ``project=False`` are never projected, nor is anything of fewer than two dimensions.
        lr: learning rate (default 1e-3).
        betas: decay rates of the running means of the gradient and of its square (default (0.9, 0.999)).
        eps: added to the root of the second moment, and to norms in the projection (default 1e-8).
        weight_decay: decoupled decay rate (default 0).
        delta: threshold of the test for scale invariance (default 0.1; 0 switches the projection off).
        wd_ratio: factor of the decay of projected tensors, in [0, 1] (default 0.1).
        nesterov: look one step ahead (default False).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: two tensors a parameter, ``exp_avg`` and ``exp_avg_sq``, as Adam's.

    Raises:
        ValueError: a value out of range, or complex parameters.

    Example:
        >>> import torch
        >>> from thalweg.optim import AdamP
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.BatchNorm1d(3))
        >>> optimizer = AdamP(model, lr=1e-3, weight_decay=0.01)
        >>> model(torch.randn(8, 4)).exp().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        chain = adam_direction(betas=betas, eps=eps, nesterov=nesterov) >> radial_projection(
            delta=delta, wd_ratio=wd_ratio, eps=eps, weight_decay=weight_decay
        )
        super().__init__(params, chain, lr=lr, **options)
