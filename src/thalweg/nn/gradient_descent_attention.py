"""Weights with which linear self-attention performs a step of gradient descent on its context (arXiv:2212.07677)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gradient_descent_attention(
    in_dim: int,
    out_dim: int,
    context_len: int,
    lr: float,
    *,
    gamma: float = 0.0,
    w0: Tensor | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    r"""Weights of :class:`thalweg.nn.LinearSelfAttention` for one gradient step on the examples in its context.

    Tokens are :math:`(x_i, y_i)`; the query is :math:`(x_q, -W_0 x_q)`, so :math:`(x_q, 0)` for :math:`W_0 = 0`. One step on
    :math:`\frac{1}{2n} \sum_i \|W x_i - y_i\|^2` changes the weights by
    :math:`\Delta W = -\frac{\eta}{n} \sum_i (W_0 x_i - y_i) x_i^\top`. The layer changes the data instead,
    :math:`y_j \leftarrow y_j - \Delta W x_j` for every token: the new residuals. On a token :math:`e = (x, y)` its matrices do

    .. math:: K e = Q e = (x, 0), \qquad V e = \bigl( -\gamma x, \tfrac{\eta}{n} (W_0 x - y) \bigr), \qquad P e = e.

    The query's target entry becomes :math:`-(W_0 + \Delta W) x_q`: **minus the prediction**. A layer applied k times to its own
    output makes k steps, for the residuals then belong to weights of zero (only the first one may have a ``w0``). Where
    :math:`\gamma > 0`, each step also takes :math:`x_j \leftarrow (I - \gamma \sum_i x_i x_i^\top)\, x_j`, which evens out the
    curvature that the next one sees ("GD++").

    Args:
        in_dim: length d of the inputs.
        out_dim: length o of the targets.
        context_len: examples n in the context.
        lr: step size :math:`\eta`, on the mean over the examples.
        gamma: :math:`\gamma`, of the *sum* over the examples (default 0: plain gradient descent).
        w0: weights before the step, ``(out_dim, in_dim)``; ``None``: zero.
        device, dtype: of the weights.

    Returns:
        A state dict for ``LinearSelfAttention(in_dim + out_dim)``: "query", "key", "value" and "out", each
        ``(1, in_dim + out_dim, in_dim + out_dim)``.

    Raises:
        ValueError: a size below 1, ``lr`` or ``gamma`` not finite, or ``w0`` of another shape.

    Example:
        >>> from thalweg.nn import LinearSelfAttention
        >>> layer = LinearSelfAttention(2)
        >>> _ = layer.load_state_dict(gradient_descent_attention(1, 1, context_len=2, lr=0.5))
        >>> tokens = torch.tensor([[1.0, 3.0], [2.0, 1.0], [2.0, 0.0]])  # the last one is the query
        >>> layer(tokens)[:, 1].detach()  # the step is 1.25: residuals y - 1.25 x, and minus the prediction
        tensor([ 1.7500, -1.5000, -2.5000])
    """
    if min(in_dim, out_dim, context_len) < 1:
        raise ValueError(f"sizes must be at least 1, not {in_dim}, {out_dim} and {context_len}")
    if not (math.isfinite(lr) and math.isfinite(gamma)):
        raise ValueError(f"lr and gamma must be finite, not {lr} and {gamma}")
    if w0 is not None and tuple(w0.shape) != (out_dim, in_dim):
        raise ValueError(f"w0 must have shape ({out_dim}, {in_dim}), not {tuple(w0.shape)}")
    size = in_dim + out_dim
    eye = torch.eye(size, device=device, dtype=dtype)
    inputs, value = eye.clone(), torch.zeros_like(eye)
    inputs[in_dim:] = 0
    value.diagonal()[:in_dim] = -gamma
    value.diagonal()[in_dim:] = -lr / context_len
    if w0 is not None:
        value[in_dim:, :in_dim] = lr / context_len * w0
    return {"query": inputs[None], "key": inputs[None].clone(), "value": value[None], "out": eye[None]}
