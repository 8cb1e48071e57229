"""Weight decay as part of the direction, for the rules that mean it so."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thalweg.optim.engine import elementwise


@elementwise()
def add_decayed_weights(
    update: Tensor, param: Tensor, state: dict[str, Tensor], *, weight_decay: float = 0.01
) -> Tensor:
    r"""Add ``weight_decay * param``: first in a chain it is L2 regularization, after a direction it is LAMB's decay.

    .. math:: u \leftarrow u + \lambda p

    Example:
        >>> from thalweg.optim import Chained, add_decayed_weights
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -1.0])
        >>> Chained([p], add_decayed_weights(weight_decay=0.5), lr=1.0).step()
        >>> p.data
        tensor([1., 3.])
    """
    return update + weight_decay * param


@elementwise(last=True)
def implicit_decay(
    update: Tensor, param: Tensor, state: dict[str, Tensor], *, lr: Any, weight_decay: float = 0.01
) -> Tensor:
    r"""Decay the weights that the step leads to, instead of those it starts from; last in a chain.

    .. math:: p \leftarrow \frac{p - \eta u}{1 + \eta\lambda}, \qquad\text{by}\qquad u \leftarrow \frac{u + \lambda p}{1 + \eta\lambda}

    Example:
        >>> from thalweg.optim import Chained, implicit_decay
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.0, 2.0])
        >>> Chained([p], implicit_decay(weight_decay=1.0), lr=1.0).step()
        >>> p.data
        tensor([1.5000, 1.0000])
    """
    return (update + weight_decay * param) / (1 + lr * weight_decay)
