"""Attention that caches a few latent numbers a token instead of all heads' keys and values (arXiv:2509.24406, 2405.04434)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LatentCache(NamedTuple):
    """What later tokens need to know of earlier ones.

    Attributes:
        latent: shape (batch, tokens, kv_rank); keys and values of all heads are linear in it.
        rope_key: shape (batch, tokens, rope_dim); the part of the keys that knows its position, shared by all heads.

    Example:
        >>> cache = LatentCache(torch.zeros(1, 5, 8), torch.zeros(1, 5, 4))
        >>> cache.tokens
        5
    """

    latent: Tensor
    rope_key: Tensor

    @property
    def tokens(self) -> int:
        """How many tokens it holds."""
        return self.latent.shape[1]


def rotary_embedding(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    r"""Rotary position embedding: pairs (i, i + d/2) of the last dimension turn by :math:`t\, b^{-2i/d}` at position t.

    Args:
        x: shape (..., tokens, d), d even.
        positions: of the tokens, shape (tokens,).
        base: :math:`b` (default 10000).

    Example:
        >>> rotary_embedding(torch.tensor([[1.0, 0.0]]), torch.tensor([torch.pi / 2])).abs().round(decimals=4)
        tensor([[0., 1.]])
    """
    half = x.shape[-1] // 2
    rates = base ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angles = positions.to(torch.float64)[:, None] * rates  # in float32, positions beyond 10^5 would be blurred
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class MultiheadLatentAttention(nn.Module):
    r"""Causal attention whose keys and values come from a latent of low rank (DeepSeek-V2's; arXiv:2405.04434).

    For a token x, with :math:`d_h` = ``embed_dim / num_heads`` and for each head i:

    .. math::
        c = \mathrm{RMSNorm}(W_{DKV}\, x), \quad k_i = \bigl[W_{UK,i}\, c;\; \mathrm{RoPE}(W_{KR}\, x)\bigr], \quad
        v_i = W_{UV,i}\, c, \quad q_i = \bigl[q_i^{nope};\; \mathrm{RoPE}(q_i^{rope})\bigr]

    with scores :math:`q_i^\top k_i / \sqrt{d_h + d_r}`, and queries from ``q_proj``, or from a normalized latent of their own. The
    cache keeps c and the rotated key, ``kv_rank + rope_dim`` numbers a token instead of ``2 * embed_dim``. Where few tokens ask
    (decoding), :math:`W_{UK}` and :math:`W_{UV}` are absorbed into queries and outputs: no keys and values are made of the cache.

    Args:
        embed_dim: width, a multiple of ``num_heads``.
        num_heads: number of heads.
        kv_rank: numbers in the latent; a quarter to a half of ``embed_dim`` is usual.
        rope_dim: numbers of queries and keys that are rotated, even; None (default): half a head's, made even.
        q_rank: rank of the queries' latent; None (default): queries come from one matrix.
        bias: give linear maps a bias, but for the latents' (default False).
        dropout: probability of dropping attention weights in training (default 0).
        rope_base: base of the rotations (default 10000).
        device, dtype: of the parameters.

    Shape:
        input (batch, tokens, embed_dim), output the same and a :class:`LatentCache`.

    Raises:
        ValueError: ``embed_dim`` no multiple of ``num_heads``, an odd ``rope_dim``, or a size below 1.

    Example:
        >>> attention = MultiheadLatentAttention(32, 4, kv_rank=8)
        >>> x = torch.randn(2, 6, 32)
        >>> whole, _ = attention(x)
        >>> _, cache = attention(x[:, :5])
        >>> last, cache = attention(x[:, 5:], cache)
        >>> torch.allclose(last, whole[:, 5:], atol=1e-5), cache.tokens
        (True, 6)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kv_rank: int,
        rope_dim: int | None = None,
        q_rank: int | None = None,
        bias: bool = False,
        dropout: float = 0.0,
        rope_base: float = 10000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(embed_dim, num_heads, kv_rank, 1 if q_rank is None else q_rank) < 1:
            raise ValueError(f"sizes must be at least 1, not {embed_dim}, {num_heads}, {kv_rank} and {q_rank}")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim ({embed_dim}) must be a multiple of num_heads ({num_heads})")
        head_dim = embed_dim // num_heads
        rope_dim = max(2, head_dim // 4 * 2) if rope_dim is None else rope_dim
        if rope_dim < 2 or rope_dim % 2:
            raise ValueError(f"rope_dim must be even and at least 2, not {rope_dim}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        self.kv_rank, self.rope_dim, self.q_rank = kv_rank, rope_dim, q_rank
        self.dropout, self.rope_base = dropout, rope_base

        def linear(inputs: int, outputs: int, bias: bool = bias) -> nn.Linear:
            return nn.Linear(inputs, outputs, bias=bias, device=device, dtype=dtype)

        def norm(size: int) -> nn.RMSNorm:
            return nn.RMSNorm(size, eps=1e-6, device=device, dtype=dtype)

        self.kv_down_proj, self.kv_norm = linear(embed_dim, kv_rank, bias=False), norm(kv_rank)
        self.k_rope_proj = linear(embed_dim, rope_dim)
        # Absorbing a matrix into the queries has no place for a bias.
        self.k_up_proj = linear(kv_rank, embed_dim, bias=False)
        self.v_up_proj = linear(kv_rank, embed_dim, bias=False)
        if q_rank is not None:
            self.q_down_proj, self.q_norm = linear(embed_dim, q_rank, bias=False), norm(q_rank)
        self.q_proj = linear(embed_dim if q_rank is None else q_rank, num_heads * (head_dim + rope_dim))
        self.out_proj = linear(embed_dim, embed_dim)

    def forward(
        self, x: Tensor, cache: LatentCache | None = None, absorb: bool | None = None
    ) -> tuple[Tensor, LatentCache]:
        """Attend to the tokens of the cache, and causally to those of ``x`` after them.

        Args:
            x: the next tokens.
            cache: of the tokens before; None: there are none.
            absorb: whether to leave keys and values in the latent; None (default): what takes fewer operations.

        Returns:
            The output for ``x``, and the cache with its tokens added; the old one stays as it was.
        """
        before = 0 if cache is None else cache.tokens
        positions = torch.arange(before, before + x.shape[1], device=x.device)
        latent = self.kv_norm(self.kv_down_proj(x))
        rope_key = rotary_embedding(self.k_rope_proj(x), positions, self.rope_base)
        if cache is not None:
            latent = torch.cat([cache.latent, latent], dim=1)
            rope_key = torch.cat([cache.rope_key, rope_key], dim=1)
        queries = self.q_proj(x if self.q_rank is None else self.q_norm(self.q_down_proj(x)))
        queries = queries.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (batch, heads, tokens, numbers)
        content, rope_query = queries.split([self.head_dim, self.rope_dim], dim=-1)
        rope_query = rotary_embedding(rope_query, positions, self.rope_base)
        if absorb is None:
            absorb = self._absorbing_is_cheaper(x.shape[1], latent.shape[1])
        attend = self._attend_latent if absorb else self._attend
        heads = attend(content, rope_query, latent, rope_key)
        return self.out_proj(heads.transpose(1, 2).flatten(2)), LatentCache(latent, rope_key)

    def _attend(self, content: Tensor, rope_query: Tensor, latent: Tensor, rope_key: Tensor) -> Tensor:
        """With every head's keys and values."""
        keys, values = (
            projection(latent).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.k_up_proj, self.v_up_proj)
        )
        keys = torch.cat([keys, rope_key[:, None].expand(-1, self.num_heads, -1, -1)], dim=-1)
        queries = torch.cat([content, rope_query], dim=-1)
        return self._scaled_dot_product(queries, keys, values)

    def _attend_latent(self, content: Tensor, rope_query: Tensor, latent: Tensor, rope_key: Tensor) -> Tensor:
        """With the latent as the key and value of all heads."""
        k_up, v_up = (w.weight.unflatten(0, (self.num_heads, -1)) for w in (self.k_up_proj, self.v_up_proj))
        queries = torch.cat([content @ k_up, rope_query], dim=-1)
        keys = torch.cat([latent, rope_key], dim=-1)[:, None]
        many = (-1, self.num_heads, -1, -1)
        return self._scaled_dot_product(queries, keys.expand(many), latent[:, None].expand(many)) @ v_up.mT

    def _scaled_dot_product(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        asked, seen = queries.shape[-2], keys.shape[-2]
        mask = None
        if 1 < asked < seen:
            mask = torch.ones(asked, seen, dtype=torch.bool, device=queries.device).tril(seen - asked)
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=1 < asked == seen,
            scale=(self.head_dim + self.rope_dim) ** -0.5,
        )

    def _absorbing_is_cheaper(self, asked: int, seen: int) -> bool:
        """Multiplications a head, without those that are the same either way."""
        apart = 2 * seen * self.kv_rank * self.head_dim + asked * seen * 2 * self.head_dim
        absorbed = 2 * asked * self.kv_rank * self.head_dim + asked * seen * 2 * self.kv_rank
        return absorbed < apart

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, kv_rank={self.kv_rank}, rope_dim={self.rope_dim}, q_rank={self.q_rank}"
