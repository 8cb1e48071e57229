r"""How far a two-layer linear network turns its tangent kernel when it starts small (arXiv:2310.08513).

The network :math:`f(x) = w_2^\top W_1 x` on white inputs, with a target :math:`\beta^\top x`, learns by gradient flow from
:math:`w_2 = 0`. Its tangent kernel on white inputs is that of the matrix

.. math:: K = W_1^\top W_1 + |w_2|^2 I, \qquad K_0 = W_1(0)^\top W_1(0).

Along the flow :math:`W_1 W_1^\top - w_2 w_2^\top` stays what it is at the start. So as the start shrinks the flow ends in the
balanced solution, :math:`W_1 = |\beta|^{1/2} u b^\top` and :math:`w_2 = |\beta|^{1/2} u` with :math:`b = \beta / |\beta|`, and

.. math:: K_\infty = |\beta|\,(I + b\,b^\top)

whatever the start was. (The paper proves that alignment grows with rank in the mean over tasks; the formulas here follow from
the limit above.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def small_start_alignment(K0: Tensor, beta: Tensor) -> Tensor:
    r"""Alignment of the kernels before and after training, in the limit of a small start.

    .. math:: A = \frac{\mathrm{tr} K_0 + b^\top K_0\,b}{\|K_0\|_F \sqrt{d + 3}}

    Args:
        K0: ``(..., d, d)``, symmetric, positive semi-definite, not zero; its scale doesn't matter.
        beta: the target, ``(..., d)``, not zero.

    Returns:
        ``(...)``.

    Example:
        >>> b = torch.tensor([1.0, 0.0, 0.0])
        >>> small_start_alignment(torch.outer(b, b), b)  # rank one and aligned: 2 / sqrt(d + 3)
        tensor(0.8165)
    """
    b = beta / torch.linalg.vector_norm(beta, dim=-1, keepdim=True)
    along = (b.unsqueeze(-2) @ K0 @ b.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    trace = K0.diagonal(dim1=-2, dim2=-1).sum(-1)
    return (trace + along) / (torch.linalg.matrix_norm(K0) * math.sqrt(K0.shape[-1] + 3))


def mean_small_start_alignment(participation: float | Tensor, d: int) -> float | Tensor:
    r"""Mean of :func:`small_start_alignment` over targets of uniform direction.

    .. math:: E_\beta A = \sqrt{\frac{\mathrm{PR}(K_0)}{d + 3}} \Big(1 + \frac1d\Big), \qquad
              \mathrm{PR}(K_0) = \frac{(\mathrm{tr} K_0)^2}{\|K_0\|_F^2}

    It grows with the rank: :math:`(1 + 1/d) / \sqrt{d + 3}` at rank one, nearly 1 for :math:`K_0 \propto I`.

    Args:
        participation: PR of K0, that is the participation ratio of :math:`W_1(0)`, from 1 to d.
        d: inputs.

    Example:
        >>> round(mean_small_start_alignment(1.0, 32), 4)
        0.1743
    """
    return (participation / (d + 3)) ** 0.5 * (1 + 1 / d)
