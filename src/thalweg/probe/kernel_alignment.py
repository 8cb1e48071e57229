"""How alike two kernels, or two sets of features, are (arXiv:2310.08513, 2310.06110)."""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_alignment(first: Tensor, second: Tensor, *, center: bool = False) -> Tensor:
    r"""The cosine of two kernel matrices.

    .. math::
        A(K, L) = \frac{\langle K, L \rangle_F}{\|K\|_F\,\|L\|_F}

    Between the tangent kernels of a network before and after training, 1 means that training left its features as they
    were (lazy). Between a tangent kernel and :math:`y y^\top` it says how well the features suit the targets: A is then
    :math:`y^\top K y / (\|K\|_F \|y\|^2)`. With ``center`` both kernels become :math:`H K H` with
    :math:`H = I - \mathbf 1 \mathbf 1^\top / n` first, and A is what is known as centred kernel alignment (CKA).

    Args:
        first, second: ``(..., n, n)``; they broadcast.
        center: subtract the means of rows and columns (default: no).

    Returns:
        ``(...)``, in [0, 1] for positive semi-definite kernels.

    Raises:
        ValueError: a matrix isn't square, the sizes differ, or one is zero (after centring, for constant targets).

    Example:
        >>> y = torch.tensor([1.0, 2.0, 3.0])
        >>> kernel_alignment(torch.eye(3), torch.outer(y, y))
        tensor(0.5774)
    """
    for K in (first, second):
        if K.dim() < 2 or K.shape[-1] != K.shape[-2]:
            raise ValueError(f"a kernel is a square matrix, not {tuple(K.shape)}")
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"kernels of {first.shape[-1]} and of {second.shape[-1]} examples can't be compared")
    scales = [torch.linalg.matrix_norm(K) for K in (first, second)]
    if center:
        first, second = _centred(first), _centred(second)
    norms = [torch.linalg.matrix_norm(K) for K in (first, second)]
    eps = torch.finfo(first.dtype).eps * first.shape[-1]
    if any(bool((norm <= eps * scale).any()) for norm, scale in zip(norms, scales, strict=True)):
        raise ValueError("a kernel is zero" + (" after centring (constant targets?)" if center else ""))
    return (first / norms[0][..., None, None] * second / norms[1][..., None, None]).sum((-2, -1))


def _centred(K: Tensor) -> Tensor:
    K = K - K.mean(-1, keepdim=True)
    return K - K.mean(-2, keepdim=True)


def representation_alignment(first: Tensor, second: Tensor) -> Tensor:
    r""":func:`kernel_alignment` of the kernels :math:`H H^\top` of two sets of features of the same examples.

    Args:
        first, second: ``(..., examples, features)``; the numbers of features may differ.

    Example:
        >>> H = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> representation_alignment(H, H @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]))  # turned, not changed
        tensor(1.)
    """
    return kernel_alignment(first @ first.mT, second @ second.mT)


def sign_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Share of units and examples whose activity has the same sign, or is zero, in both; a number for each batch entry.

    Args:
        first, second: ``(..., examples, units)`` of equal shape.

    Example:
        >>> sign_similarity(torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[3.0, 0.0, -1.0]]))
        tensor(0.6667)
    """
    if first.shape != second.shape:
        raise ValueError(f"activities of shapes {tuple(first.shape)} and {tuple(second.shape)} can't be compared")
    return (first.sign() == second.sign()).to(first.dtype).mean((-2, -1))
