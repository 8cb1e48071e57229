"""Attention with momentum: a decaying sum of past values is added to what attention reads (arXiv:2212.10559)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MomentumCache(NamedTuple):
    """What later tokens need to know of earlier ones.

    Attributes:
        key, value: shape (batch, heads, tokens, head_dim).
        sum: the decayed sum that the next token will get, shape (batch, heads, head_dim).

    Example:
        >>> zeros = torch.zeros(1, 2, 5, 4)
        >>> MomentumCache(zeros, zeros, torch.zeros(1, 2, 4)).key.shape[2]
        5
    """

    key: Tensor
    value: Tensor
    sum: Tensor


def ema_values(values: Tensor, momentum: float, start: Tensor | None = None) -> Tensor:
    r"""Decayed sums of the values before each token, the token itself left out.

    .. math:: m_t = \sum_{i < t} \eta^{t-i} v_i, \quad \text{that is,} \quad m_1 = 0, \ m_t = \eta\, (m_{t-1} + v_{t-1})

    They stay below :math:`\eta / (1 - \eta)` times the largest value. Computed as a product with a triangular matrix, O(T²).

    Args:
        values: shape (..., tokens, head_dim).
        momentum: :math:`\eta`, in [0, 1).
        start: :math:`m_1`, shape (..., head_dim); None: 0.

    Returns:
        Shape (..., tokens + 1, head_dim): the last one is for the token that comes next.

    Raises:
        ValueError: momentum outside [0, 1).

    Example:
        >>> ema_values(torch.tensor([[1.0], [2.0], [4.0]]), 0.5)[:, 0]
        tensor([0.0000, 0.5000, 1.2500, 2.6250])
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), not be {momentum}")
    length = values.shape[-2]
    places = torch.arange(length + 1, device=values.device)
    back = places[:, None] - places[None, :-1]
    decay = torch.where(back > 0, momentum ** back.clamp(min=0).to(values.dtype), 0.0)
    sums = decay @ values
    if start is not None:
        sums = sums + momentum ** places.to(values.dtype)[:, None] * start.unsqueeze(-2)
    return sums


def split_icl_update(x_demo: Tensor, x_query: Tensor, wk: Tensor, wv: Tensor) -> tuple[Tensor, Tensor]:
    r"""What linear attention over demonstrations and a query's own text does, as weights before and an update.

    Without the softmax, :math:`W_V [X'; X] (W_K [X'; X])^\top q = (W_0 + \Delta W)\, q` with
    :math:`W_0 = \sum_i (W_V x_i)(W_K x_i)^\top` over the text and the same sum :math:`\Delta W` over the demonstrations: the form
    that gradient descent gives to the weights of a linear layer, a sum of output gradients times inputs.

    Args:
        x_demo: demonstration tokens, shape (..., n, d).
        x_query: tokens of the query's text, shape (..., m, d).
        wk, wv: keys' and values' matrices, shape (d', d).

    Returns:
        :math:`W_0` and :math:`\Delta W`, each (..., d', d').

    Example:
        >>> eye = torch.eye(2)
        >>> split_icl_update(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]]), eye, eye)[1]
        tensor([[1., 2.],
                [2., 4.]])
    """
    zero_shot, update = ((x @ wv.mT).mT @ (x @ wk.mT) for x in (x_query, x_demo))
    return zero_shot, update


class MomentumAttention(nn.Module):
    r"""Multi-head attention to which every head adds a decayed sum of the values before the token.

    .. math:: \mathrm{out}_t = V \mathrm{softmax}(K^\top q_t / \sqrt{d_h}) + \sum_{i < t} \eta^{t-i} v_i

    per head, before the output projection. If attention to demonstrations is read as gradient descent, the sum is its momentum.
    ``momentum=0`` is plain attention. No parameters are added; decoding keeps one more vector a head.

    Args:
        embed_dim: width, a multiple of ``num_heads``.
        num_heads: number of heads.
        momentum: :math:`\eta`, in [0, 1) (default 0.1; the paper tunes it).
        causal: a token sees itself and those before (default); without it there is no "before" for a momentum to use.
        dropout: probability of dropping attention weights in training (default 0).
        bias: give linear maps a bias (default True).
        device, dtype: of the parameters.

    Shape:
        input (batch, tokens, embed_dim); output the same, and a :class:`MomentumCache`.

    Raises:
        ValueError: ``embed_dim`` no multiple of ``num_heads``, momentum outside [0, 1), or momentum without ``causal``.

    Example:
        >>> attention = MomentumAttention(8, 2, momentum=0.3)
        >>> x = torch.randn(1, 5, 8)
        >>> whole, _ = attention(x)
        >>> _, cache = attention(x[:, :4])
        >>> last, _ = attention(x[:, 4:], cache=cache)
        >>> torch.allclose(last, whole[:, 4:], atol=1e-6)
        True
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        momentum: float = 0.1,
        causal: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim ({embed_dim}) must be a multiple of num_heads ({num_heads})")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), not be {momentum}")
        if momentum and not causal:
            raise ValueError("momentum sums over the tokens before one: it needs causal=True")
        self.num_heads, self.momentum, self.causal, self.dropout = num_heads, momentum, causal, dropout
        self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=bias, device=device, dtype=dtype)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)

    def forward(
        self, x: Tensor, key_padding_mask: Tensor | None = None, cache: MomentumCache | None = None
    ) -> tuple[Tensor, MomentumCache]:
        """Attend to the tokens of the cache and to those of ``x``.

        Args:
            x: the next tokens.
            key_padding_mask: (batch, tokens), True where there is padding: nobody attends to it and it adds 0 to the sums.
            cache: of the tokens before, none of them padding; None: there are none. Needs ``causal``.

        Returns:
            The output for ``x``, and the cache with its tokens added; the old one stays as it was.
        """
        batch, length, width = x.shape
        q, k, v = self.qkv_proj(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        real = v if key_padding_mask is None else v.masked_fill(key_padding_mask[:, None, :, None], 0.0)
        sums = ema_values(real, self.momentum, None if cache is None else cache.sum)
        before = 0
        if cache is not None:
            if not self.causal or key_padding_mask is not None:
                raise ValueError("a cache needs causal=True and tokens without padding")
            before = cache.key.shape[2]
            k, v = torch.cat([cache.key, k], 2), torch.cat([cache.value, v], 2)
        allowed = self._allowed(length, before, key_padding_mask, x.device)
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        if self.momentum:
            read = read + sums[:, :, :-1]
        out = self.out_proj(read.transpose(1, 2).reshape(batch, length, width))
        return out, MomentumCache(k, v, sums[:, :, -1])

    def _allowed(self, length: int, before: int, padding: Tensor | None, device: torch.device) -> Tensor:
        """Who may attend to whom; padding may attend to itself, for a softmax over nothing is no number."""
        allowed = torch.ones(length, before + length, dtype=torch.bool, device=device)
        if self.causal:
            allowed = allowed.tril(before)
        if padding is None:
            return allowed
        itself = torch.eye(length, dtype=torch.bool, device=device)
        return ((allowed & ~padding[:, None, :]) | itself).unsqueeze(1)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, momentum={self.momentum}, causal={self.causal}"
