"""Normalized gradient descent of one attention layer, without end: where do its weights point? (arXiv:2308.16898)"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class AttentionPath(NamedTuple):
    """What :func:`normalized_attention_descent` finds, for every problem of the batch.

    Args:
        W: weights at the end, ``(..., d, d)``; the product where factors were trained.
        selected: the token with the highest score at the end, ``(..., n)``.
        mass: the softmax's weight of it, ``(..., n)``.
        steps: after how many steps the weights of ``course`` were taken, 0 first.
        course: ``(len(steps), ..., d, d)``.

    Example:
        >>> from thalweg.solve import normalized_attention_descent
        >>> X, z, v = torch.eye(2)[None], torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0])
        >>> path = normalized_attention_descent(X, z, torch.ones(1), v, steps=10)
        >>> path.selected.tolist(), round(path.W.norm().item(), 4)
        ([0], 1.0)
    """

    W: Tensor
    selected: Tensor
    mass: Tensor
    steps: list[int]
    course: Tensor


def attention_gradient(X: Tensor, z: Tensor, y: Tensor, v: Tensor, W: Tensor) -> Tensor:
    r"""Gradient by W of the mean logistic loss of :math:`f_i = v^\top X_i^\top \mathrm{softmax}(X_i W z_i)`, exact far out.

    .. math:: \nabla_W = \frac1n \sum_{i,t} \ell'(y_i f_i)\, y_i\, a_{it} (s_{it} - \textstyle\sum_u a_{iu} s_{iu})\, x_{it} z_i^\top

    with the softmax a and :math:`s_{it} = v^\top (x_{it} - x_{i\alpha_i})`. Measured from the likeliest token
    :math:`\alpha_i`, the bracket keeps its relative precision when the softmax is all but saturated, until gaps of about 700,
    where the gradient is too small a number (its direction isn't: descent goes on beyond).

    Args:
        X: tokens, ``(..., n, T, d)``.
        z: queries, ``(..., n, d)``.
        y: labels -1 and 1, ``(..., n)``.
        v: the fixed head, ``(..., d)``.
        W: weights, ``(..., d, d)``.

    Returns:
        ``(..., d, d)``.

    Example:
        >>> X, z, v = torch.eye(2)[None], torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0])
        >>> attention_gradient(X, z, torch.ones(1), v, torch.zeros(2, 2)).round(decimals=4) + 0.0
        tensor([[-0.0944,  0.0000],
                [ 0.0944,  0.0000]])
    """
    direction, log_scale = _scaled_gradient(X, z, y, v, W)
    return direction * log_scale.exp()


def _scaled_gradient(X: Tensor, z: Tensor, y: Tensor, v: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient over a positive number, and that number's logarithm, ``(..., 1, 1)``: the direction never underflows.

    The number is the largest weight of a token that isn't the likeliest of its input.
    """
    logits = (X @ (W.unsqueeze(-3) @ z.unsqueeze(-1))).squeeze(-1)
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.argmax(-1, keepdim=True), True)
    log_weights = logits.log_softmax(-1)
    log_scale = log_weights.masked_fill(chosen, -torch.inf).amax((-2, -1), keepdim=True)
    others = (log_weights - log_scale).masked_fill(chosen, -torch.inf).exp()
    worth = (X @ v[..., None, :, None]).squeeze(-1)
    best = (worth * chosen).sum(-1, keepdim=True)
    relative = worth - best
    scaled_mean = (others * relative).sum(-1, keepdim=True)
    mean = scaled_mean * log_scale.exp()
    slope = -torch.sigmoid(-y * (best + mean).squeeze(-1)) * y / y.shape[-1]
    pulls = torch.where(chosen, -log_weights.exp() * scaled_mean, others * (relative - mean))
    return torch.einsum("...nt,...ntd,...ne->...de", slope.unsqueeze(-1) * pulls, X, z), log_scale


def normalized_attention_descent(
    X: Tensor,
    z: Tensor,
    y: Tensor,
    v: Tensor,
    *,
    lr: float = 0.1,
    steps: int = 2000,
    factors: tuple[Tensor, Tensor] | None = None,
    decay: float = 0.0,
    record: int = 1,
) -> AttentionPath:
    r"""Steps of length ``lr`` against the gradient, :math:`W \leftarrow W - \eta\, G / \|G\|_F` from :math:`W = 0`.

    The loss has no minimum: W grows for ever, and plain descent would need exponentially many steps to show where to. With
    ``factors`` :math:`W = K Q^\top` and both move by steps of length ``lr`` against their own gradients :math:`G Q` and
    :math:`G^\top K`. The two ways end in different directions, see :func:`thalweg.solve.attention_svm`. Problems go side by side.

    A ``decay`` adds its product with :math:`\|W\|_F^2`, or with :math:`\|K\|_F^2 + \|Q\|_F^2`, to the loss. However small, it
    outweighs the gradient one day; weights stop growing there, forget their course, and come near the machine in a few hundred
    steps, where without it the direction of factors goes on converging very slowly.

    Args:
        X, y, z, v: as in :func:`attention_gradient`; float64 is advised.
        lr: length of a step (default 0.1).
        steps: how many (default 2000).
        factors: start ``(K, Q)``, each ``(..., d, m)``, not zero; ``None``: train W.
        decay: weight of the squared norms, such as 2.2e-16 (default 0: none).
        record: moments whose weights are kept, evenly spread, besides the start (default 1: the end).

    Raises:
        ValueError: ``lr`` isn't positive, ``decay`` is negative, fewer steps than records, or a factor that is zero.

    Example:
        >>> X, z, v = torch.eye(2)[None], torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0])
        >>> normalized_attention_descent(X, z, torch.ones(1), v, lr=0.5, steps=2).W.round(decimals=4)
        tensor([[ 0.7071,  0.0000],
                [-0.7071,  0.0000]])
    """
    if not lr > 0 or not 1 <= record <= steps:
        raise ValueError(f"lr must be positive and steps at least record >= 1, not {lr}, {steps} and {record}")
    if not decay >= 0:
        raise ValueError(f"decay must not be negative, but is {decay}")
    if factors is not None and not all(factor.any() for factor in factors):
        raise ValueError("factors must not start at zero, where they have no gradient")
    W = X.new_zeros(*X.shape[:-3], X.shape[-1], X.shape[-1])
    if factors is not None:
        K, Q = factors
        W = K @ Q.mT
    marks = [round(steps * (k / record)) for k in range(record + 1)]
    course = [W]
    for step in range(1, steps + 1):
        gradient, log_scale = _scaled_gradient(X, z, y, v, W)
        pull: float | Tensor = 0.0
        if decay:  # the sum over the larger one of both scales: neither underflows
            largest = log_scale.clamp(min=math.log(decay))
            gradient, pull = gradient * (log_scale - largest).exp(), 2 * decay * (-largest).exp()
        if factors is None:
            W = W - lr * _unit(gradient + pull * W)
        else:
            K, Q = K - lr * _unit(gradient @ Q + pull * K), Q - lr * _unit(gradient.mT @ K + pull * Q)
            W = K @ Q.mT
        if step in marks:
            course.append(W)
    logits = (X @ (W.unsqueeze(-3) @ z.unsqueeze(-1))).squeeze(-1)
    mass, selected = logits.softmax(-1).max(-1)
    return AttentionPath(W, selected, mass, marks, torch.stack(course))


def _unit(gradient: Tensor) -> Tensor:
    """Of Frobenius length 1, or zero; its largest entry is divided out first, for squares underflow early."""
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / gradient.abs().amax((-2, -1), keepdim=True).clamp(min=tiny)
    return scaled / torch.linalg.matrix_norm(scaled, keepdim=True).clamp(min=tiny)
