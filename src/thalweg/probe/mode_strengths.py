"""How far a deep linear network has learnt each mode of its task (arXiv:1312.6120)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def mode_strengths(weights: Sequence[Tensor], U: Tensor, V: Tensor) -> Tensor:
    r"""Strengths :math:`u_k^\top W_L \cdots W_1 v_k` of the modes :math:`(u_k, v_k)` in the product of the weights.

    If U and V are the singular vectors of the input-output correlation :math:`E[y x^\top]` and the inputs are white, a
    mode is fully learnt when its strength equals its singular value. Where singular values coincide, their vectors are
    defined up to a rotation, and so are the single strengths.

    Args:
        weights: :math:`W_1, \dots, W_L` in the order in which data passes them, each ``(..., out, in)``; leading
            dimensions are separate networks.
        U: ``(out features of the last weight, modes)``.
        V: ``(in features of the first weight, modes)``; note that ``torch.linalg.svd`` returns ``V.mH``.

    Returns:
        ``(..., modes)``, without gradient.

    Raises:
        ValueError: there is no weight, or sizes do not fit.

    Example:
        >>> import torch
        >>> W1, W2 = torch.diag(torch.tensor([2.0, 1.0])), torch.tensor([[3.0, 0.0], [0.0, -1.0]])
        >>> mode_strengths([W1, W2], torch.eye(2), torch.eye(2))
        tensor([ 6., -1.])
    """
    if not weights:
        raise ValueError("mode_strengths needs at least one weight")
    rows, columns = weights[-1].shape[-2], weights[0].shape[-1]
    if U.dim() != 2 or V.dim() != 2 or (len(U), len(V)) != (rows, columns) or U.shape[1] != V.shape[1]:
        raise ValueError(
            f"U and V must have shapes ({rows}, modes) and ({columns}, modes), not {tuple(U.shape)} and {tuple(V.shape)}"
        )
    images = V
    for weight in weights:
        if weight.shape[-1] != images.shape[-2]:
            raise ValueError(f"a weight takes {weight.shape[-1]} features but gets {images.shape[-2]}")
        images = weight.detach() @ images
    return (U * images).sum(-2)
