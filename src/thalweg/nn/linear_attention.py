"""Self-attention without softmax: the model in which learning in context can be worked out (arXiv:2307.03576, 2212.07677)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearSelfAttention(nn.Module):
    r"""One layer of linear self-attention over a context and a query, with the residual connection added.

    Tokens :math:`e_1, \dots, e_T`, the last one the query; over the context :math:`C = \{1, \dots, T - 1\}`, for every j:

    .. math::
        e_j \leftarrow e_j + \sum_h P_h \sum_{i \in C} (V_h e_i) (K_h e_i)^\top Q_h e_j
        = \Bigl( I + \sum_h P_h V_h \, G \, K_h^\top Q_h \Bigr) e_j, \qquad G = \sum_{i \in C} e_i e_i^\top.

    No softmax, bias, normalization or scaling; the order of the context doesn't matter. The function depends on the
    products :math:`P_h V_h` and :math:`K_h^\top Q_h` alone (:meth:`products`): never compare single matrices of two
    layers. With tokens :math:`(x_i, y_i)` and the query :math:`(x_q, 0)`, the query's last entry is the prediction of
    one gradient step for suitable weights (of minus it in arXiv:2212.07677). The cost grows linearly with T.

    Args:
        embed_dim: length d of a token.
        num_heads: heads h.
        key_dim: rows of :math:`Q_h, K_h, V_h`; ``None`` means ``embed_dim``.
        factored: learn P, V, K and Q; if not, the products themselves, ``(num_heads, d, d)`` each, which trains with
            a plateau less. ``key_dim`` isn't used then.
        include_query: let the query attend to itself too, C = {1, ..., T}.
        std: the parameters' start is normal with this standard deviation.
        device, dtype: of the parameters.

    Shape:
        input and output ``(..., T, d)``; with ``query_only=True`` the output is the query's alone, ``(..., d)``, at a
        fraction of the cost.

    Raises:
        ValueError: a size below 1, or tokens of another length.

    Example:
        >>> layer = LinearSelfAttention(2, factored=False)
        >>> with torch.no_grad():  # one step of gradient descent of size 1 / 2, over the sum of two examples
        ...     _ = layer.value_out.copy_(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))
        ...     _ = layer.key_query.copy_(torch.tensor([[[0.5 / 2, 0.0], [0.0, 0.0]]]))
        >>> layer(torch.tensor([[1.0, 3.0], [2.0, 1.0], [2.0, 0.0]]))[-1]
        tensor([2.0000, 2.5000], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int = 1,
        key_dim: int | None = None,
        *,
        factored: bool = True,
        include_query: bool = False,
        std: float = 0.05,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        key_dim = embed_dim if key_dim is None else key_dim
        if min(embed_dim, num_heads, key_dim) < 1:
            raise ValueError(f"sizes must be at least 1, not {embed_dim}, {num_heads} and {key_dim}")
        self.embed_dim, self.num_heads, self.key_dim = embed_dim, num_heads, key_dim
        self.factored, self.include_query, self.std = factored, include_query, std

        def matrix(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(num_heads, rows, columns, device=device, dtype=dtype))

        if factored:
            self.query, self.key, self.value = (matrix(key_dim, embed_dim) for _ in range(3))
            self.out = matrix(embed_dim, key_dim)
        else:
            self.value_out, self.key_query = (matrix(embed_dim, embed_dim) for _ in range(2))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=self.std, generator=generator)

    def products(self) -> tuple[Tensor, Tensor]:
        r""":math:`P_h V_h` and :math:`K_h^\top Q_h` of all heads, each ``(num_heads, d, d)``."""
        if self.factored:
            return self.out @ self.value, self.key.mT @ self.query
        return self.value_out, self.key_query

    def forward(self, tokens: Tensor, query_only: bool = False) -> Tensor:
        if tokens.dim() < 2 or tokens.shape[-1] != self.embed_dim:
            raise ValueError(f"tokens must have shape (..., T, {self.embed_dim}), not {tuple(tokens.shape)}")
        context = tokens if self.include_query else tokens[..., :-1, :]
        gram = context.mT @ context
        value_out, key_query = self.products()
        if query_only:
            query = tokens[..., -1, :]
            asked = torch.einsum("hab,...b->...ha", key_query, query)
            return query + torch.einsum("hab,...hb->...a", value_out, asked @ gram)  # gram is symmetric
        return tokens + tokens @ (value_out @ gram.unsqueeze(-3) @ key_query).sum(-3).mT

    def extra_repr(self) -> str:
        sizes = f"{self.embed_dim}, num_heads={self.num_heads}, key_dim={self.key_dim}"
        return f"{sizes}, factored={self.factored}, include_query={self.include_query}"
