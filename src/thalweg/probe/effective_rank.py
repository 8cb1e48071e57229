"""How many directions a matrix really uses (arXiv:2310.08513)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def effective_rank(W: Tensor, kind: Literal["stable", "participation", "entropy"] = "participation") -> Tensor:
    r"""A smooth count of the singular values s of a matrix; all kinds give r for r equal ones.

    ================= ==========================================================================
    ``stable``        :math:`\sum_i s_i^2 / \max_i s_i^2`
    ``participation`` :math:`(\sum_i s_i^2)^2 / \sum_i s_i^4`, that of the eigenvalues of
                      :math:`W^\top W`
    ``entropy``       :math:`\exp(-\sum_i p_i \log p_i)` with :math:`p = s / \sum_i s_i`
    ================= ==========================================================================

    Args:
        W: ``(..., m, n)``.
        kind: see above.

    Returns:
        ``(...)``, between 1 and min(m, n).

    Raises:
        ValueError: an unknown kind, or a matrix is zero.

    Example:
        >>> W = torch.diag(torch.tensor([2.0, 1.0, 1.0]))
        >>> [round(effective_rank(W, kind).item(), 3) for kind in ("stable", "participation", "entropy")]
        [1.5, 2.0, 2.828]
    """
    if kind not in ("stable", "participation", "entropy"):
        raise ValueError(f"kind must be 'stable', 'participation' or 'entropy', not {kind!r}")
    s = torch.linalg.svdvals(W)
    if not bool((s[..., 0] > 0).all()):
        raise ValueError("a matrix of zeros has no effective rank")
    s = s / s[..., :1]
    if kind == "entropy":
        p = s / s.sum(-1, keepdim=True)
        return torch.special.entr(p).sum(-1).exp()
    squares = s.square()
    total = squares.sum(-1)
    return total if kind == "stable" else total.square() / squares.square().sum(-1)
