"""Clipping by the norm of the whole gradient, as a transform (arXiv:1211.5063)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine import elementwise
from thalweg.registry import method


@method(
    "clip_gradient_norm",
    search={"max_norm": ("log", 1e-2, 1e1)},
    use="Recurrent networks and transformers whose loss jumps; costs one norm.",
)
@elementwise()
def clip_gradient_norm(
    update: Tensor, param: Tensor, state: dict[str, Tensor], *, gradient_norm: Any, max_norm: float = 1.0
) -> Tensor:
    r"""Scale gradients down together where they are longer than ``max_norm`` together (arXiv:1211.5063).

    .. math:: g \leftarrow \frac{g}{\max(1, \|g\| / c)}

    The norm is that of all gradients of the optimizer (all groups and shards) before anything is done to them, so this belongs at the
    beginning of a chain. As ``torch.nn.utils.clip_grad_norm_``, but ``p.grad`` stays as it is. A NaN in one gradient makes
    all parameters NaN.

    Example:
        >>> import torch
        >>> from thalweg.optim import SGD, clip_gradient_norm
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> SGD([p], lr=1.0, before=clip_gradient_norm(max_norm=1.0)).step()
        >>> p.data
        tensor([-0.6000, -0.8000])
    """
    return update / torch.as_tensor(gradient_norm / max_norm, dtype=update.dtype).clamp(min=1.0)
