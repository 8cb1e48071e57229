"""A small causal transformer: the language model that most experiments share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHT_STD = 0.02
"""Standard deviation of every matrix at the start."""


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which a position sees itself and what stands before it.

    With queries, keys and values from one matrix, for every head: ``softmax(q k^T / sqrt(d_head) + mask) v``, then an
    output matrix over the joined heads.

    Args:
        embed_dim: width ``d``, a multiple of ``num_heads``.
        num_heads: number of heads.

    Shape:
        input and output (batch, length, embed_dim).
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim ({embed_dim}) must be a multiple of num_heads ({num_heads})")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class DecoderBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, with a GELU network four times as wide.

    Args:
        embed_dim: width.
        num_heads: attention heads.

    Shape:
        input and output (batch, length, embed_dim).
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention = CausalSelfAttention(embed_dim, num_heads)
        self.mlp_norm = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, 4 * embed_dim, bias=False), nn.GELU(), nn.Linear(4 * embed_dim, embed_dim, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Pre-norm causal transformer over a small vocabulary, with learned positions and an untied head.

    Matrices have no biases and start as N(0, 0.02); norms start as the identity.

    Args:
        vocab_size: number of symbols; 256 for bytes.
        context: most positions that it reads at once.
        embed_dim: width.
        num_heads: attention heads in a block.
        num_layers: blocks.

    Shape:
        tokens of shape (batch, length) of any integer type, ``length <= context``; logits of shape
        (batch, length, vocab_size). The logits at a position depend on the tokens up to it and predict the next.

    Raises:
        ValueError: ``embed_dim`` is not a multiple of ``num_heads``, or the input is longer than ``context``.

    Example:
        >>> model = Decoder(context=16, embed_dim=32, num_heads=2, num_layers=1)
        >>> model(torch.zeros(4, 16, dtype=torch.uint8)).shape
        torch.Size([4, 16, 256])
    """

    def __init__(
        self,
        vocab_size: int = 256,
        context: int = 64,
        embed_dim: int = 64,
        num_heads: int = 4,
        num_layers: int = 2,
    ) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(vocab_size, embed_dim)
        self.position_embed = nn.Embedding(context, embed_dim)
        self.blocks = nn.ModuleList(DecoderBlock(embed_dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=WEIGHT_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[-1]
        if length > self.context:
            raise ValueError(f"{length} tokens are more than the context of {self.context}")
        positions = torch.arange(length, device=tokens.device)
        x = self.embed(tokens.long()) + self.position_embed(positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
