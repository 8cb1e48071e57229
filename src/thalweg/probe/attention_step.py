"""Which gradient step a layer of linear self-attention performs (arXiv:2307.03576)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionStep(NamedTuple):
    """What :func:`read_off_preconditioner` finds.

    Args:
        gamma: the preconditioner on the mean gradient, ``(dim, dim)``.
        leakage: share of the layer's function that is no gradient step, 0 to 1.

    Example:
        >>> from thalweg.probe import read_off_preconditioner
        >>> value_out, key_query = torch.diag(torch.tensor([0.0, 1.0])), torch.diag(torch.tensor([0.25, 0.0]))
        >>> read_off_preconditioner(value_out, key_query, n=2).gamma
        tensor([[0.5000]])
    """

    gamma: Tensor
    leakage: float


def read_off_preconditioner(value_out: Tensor, key_query: Tensor, n: int) -> AttentionStep:
    r"""The preconditioner of the gradient step in a layer of linear self-attention, from its weights.

    With tokens :math:`(x_i, y_i)`, the query :math:`(x_q, 0)`, u the last row of :math:`P V` and M the first d columns of
    :math:`K^\top Q`, the layer predicts :math:`\sum_{abc} u_a M_{bc} G_{ab} x_{q,c}`, a polynomial in the moments
    :math:`G = \sum_i e_i e_i^\top`. Those of x with y make a gradient step,
    :math:`x_q^\top \Gamma \frac1n \sum_i y_i x_i` with

    .. math:: \Gamma_{cb} = n (u_y M_{bc} + u_b M_{yc});

    those of x with x and of y with y are no gradient step: the leakage is the norm of their coefficients over that of
    all. Both say what the layer computes, whatever its scaling between u and M, and heads add up.

    Args:
        value_out: :math:`P_h V_h`, ``(heads, dim + 1, dim + 1)`` or ``(dim + 1, dim + 1)``.
        key_query: :math:`K_h^\top Q_h`, of the same shape.
        n: examples in the context.

    Raises:
        ValueError: shapes don't fit, or n is below 1.

    Example:
        >>> value_out, key_query = torch.diag(torch.tensor([0.0, 1.0])), torch.diag(torch.tensor([0.25, 0.0]))
        >>> read_off_preconditioner(value_out, key_query, n=2)
        AttentionStep(gamma=tensor([[0.5000]]), leakage=0.0)
    """
    if value_out.shape != key_query.shape or value_out.dim() not in (2, 3) or value_out.shape[-1] < 2:
        raise ValueError(
            "value_out and key_query must both have shape (heads, dim + 1, dim + 1), not "
            f"{tuple(value_out.shape)} and {tuple(key_query.shape)}"
        )
    if value_out.shape[-1] != value_out.shape[-2]:
        raise ValueError(f"value_out and key_query must be square, not {tuple(value_out.shape[-2:])}")
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    size = value_out.shape[-1]
    u = value_out.detach().reshape(-1, size, size)[:, -1]
    m = key_query.detach().reshape(-1, size, size)[:, :, :-1]
    raw = torch.einsum("ha,hbc->abc", u, m)
    upper = raw + raw.transpose(0, 1)  # coefficient of the moment G_ab for a < b; of G_aa on the diagonal, twice
    upper[range(size), range(size)] /= 2
    step = upper[-1, :-1]
    a, b = torch.triu_indices(size, size).to(upper.device)
    total = upper[a, b].square().sum()
    leakage = ((total - step.square().sum()).clamp(min=0) / total).sqrt().item() if total > 0 else 0.0
    return AttentionStep(n * step.mT, leakage)
