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
    """
    return update + weight_decay * param


@elementwise()
def implicit_decay(
    update: Tensor, param: Tensor, state: dict[str, Tensor], *, lr: Any, weight_decay: float = 0.01
) -> Tensor:
    r"""Decay the weights that the step leads to, instead of those it starts from; last in a chain.

    .. math:: p \leftarrow \frac{p - \eta u}{1 + \eta\lambda}, \qquad\text{by}\qquad u \leftarrow \frac{u + \lambda p}{1 + \eta\lambda}
    """
    return (update + weight_decay * param) / (1 + lr * weight_decay)
