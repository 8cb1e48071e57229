"""Weight decay as part of the direction (coupled), for the rules that mean it so."""

from __future__ import annotations

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
