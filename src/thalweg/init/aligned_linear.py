"""Start of a deep linear network in which every mode learns on its own (arXiv:1312.6120)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thalweg.linalg import haar


def aligned_linear_(
    layers: Sequence[nn.Linear],
    U: Tensor,
    V: Tensor,
    strength: float | Tensor,
    *,
    generator: torch.Generator | None = None,
) -> None:
    r"""Align a stack of linear layers with given singular vectors, in place.

    Layer :math:`l` of :math:`L` becomes

    .. math:: W_l = R_l\,\mathrm{diag}(u_0^{1/L})\,R_{l-1}^\top, \qquad R_0 = V,\; R_L = U,

    with random :math:`R_1, \dots, R_{L-1}` of orthonormal columns, so the product is
    :math:`U\,\mathrm{diag}(u_0)\,V^\top`. If U and V are the singular vectors of the input-output correlation of
    whitened data, gradient descent keeps the modes apart and each one follows a closed-form curve from :math:`u_0` to
    its singular value. Biases become zero.

    Args:
        layers: the linear layers in the order in which data passes them, at least one.
        U: ``(out features of the last layer, modes)``, orthonormal columns. Extra columns of U or V are ignored.
        V: ``(in features of the first layer, modes)``, orthonormal columns; note that ``torch.linalg.svd`` returns
            ``V.mH``.
        strength: :math:`u_0 > 0`, the strength of every mode in the *whole product*, or one value a mode ``(modes,)``.
        generator: source of randomness of the inner factors.

    Raises:
        ValueError: sizes do not fit, a hidden layer is narrower than the number of modes, U or V is not orthonormal, or
            a strength is not positive.

    Example:
        >>> layers = [nn.Linear(4, 6), nn.Linear(6, 3)]
        >>> U, _, Vh = torch.linalg.svd(torch.randn(3, 4), full_matrices=False)
        >>> aligned_linear_(layers, U, Vh.mH, 0.01)
        >>> modes = U.T @ layers[1].weight @ layers[0].weight @ Vh.T
        >>> torch.allclose(modes, 0.01 * torch.eye(3), atol=1e-6)
        True
    """
    modes = _check(layers, U, V)
    first = layers[0].weight
    dtype = torch.promote_types(first.dtype, torch.float32)
    strengths = torch.as_tensor(strength, dtype=dtype, device=first.device).expand(modes)
    if not bool((strengths > 0).all()):
        raise ValueError("strength must be positive: a mode of strength 0 never starts to learn")
    inner = [
        haar(layer.out_features, modes, generator=generator, dtype=dtype, device=first.device) for layer in layers[:-1]
    ]
    frames = [V[:, :modes].to(first.device, dtype), *inner, U[:, :modes].to(first.device, dtype)]
    share = strengths ** (1 / len(layers))
    with torch.no_grad():
        for layer, before, after in zip(layers, frames[:-1], frames[1:], strict=True):
            layer.weight.copy_(after * share @ before.mT)
            if layer.bias is not None:
                layer.bias.zero_()


def _check(layers: Sequence[nn.Linear], U: Tensor, V: Tensor) -> int:
    """Number of modes, after checking that everything fits."""
    if not layers:
        raise ValueError("aligned_linear_ needs at least one layer")
    for i, (a, b) in enumerate(itertools.pairwise(layers)):
        if a.out_features != b.in_features:
            raise ValueError(f"layer {i} gives {a.out_features} features but layer {i + 1} takes {b.in_features}")
    for name, factor, size in (("U", U, layers[-1].out_features), ("V", V, layers[0].in_features)):
        if factor.dim() != 2 or factor.shape[0] != size:
            raise ValueError(f"{name} must have shape ({size}, modes), not {tuple(factor.shape)}")
        eye = torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device)
        if not torch.allclose(factor.mT @ factor, eye, atol=1e-4):
            raise ValueError(f"the columns of {name} are not orthonormal")
    modes = min(U.shape[1], V.shape[1])
    for i, layer in enumerate(layers[:-1]):
        if layer.out_features < modes:
            raise ValueError(f"layer {i} has {layer.out_features} features, fewer than the {modes} modes it must carry")
    return modes
