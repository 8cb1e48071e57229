"""A feed-forward block of many small networks, of which each token uses a few (arXiv:2509.24406, 2405.04434)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StackedExperts(nn.Module):
    """Gated networks ``down(silu(gate x) * up x)`` of one size, their matrices stacked: (experts, out, in).

    Optimizers for matrices take the stacks with ``batched=True``; :func:`thalweg.optim.muon_groups` does so by itself.

    Args:
        num_experts: number of networks.
        embed_dim: width of input and output.
        hidden_dim: width in between.
        device, dtype: of the parameters.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> experts = StackedExperts(2, 4, 8)
        >>> y = experts(torch.randn(5, 4), [3, 2])  # three tokens for the first, two for the second
        >>> y.shape
        torch.Size([5, 4])
    """

    stacked_matrices: ClassVar[tuple[str, ...]] = ("gate_proj", "up_proj", "down_proj")
    """Parameters whose first dimension counts matrices."""

    def __init__(
        self,
        num_experts: int,
        embed_dim: int,
        hidden_dim: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(num_experts, embed_dim, hidden_dim) < 1:
            raise ValueError(f"sizes must be at least 1, not {num_experts}, {embed_dim} and {hidden_dim}")
        self.num_experts, self.embed_dim, self.hidden_dim = num_experts, embed_dim, hidden_dim

        def stack(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(num_experts, rows, columns, device=device, dtype=dtype))

        self.gate_proj, self.up_proj = stack(hidden_dim, embed_dim), stack(hidden_dim, embed_dim)
        self.down_proj = stack(embed_dim, hidden_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all matrices anew, each as ``nn.Linear`` would."""
        for stack in (self.gate_proj, self.up_proj, self.down_proj):
            bound = 1 / math.sqrt(stack.shape[-1])
            nn.init.uniform_(stack, -bound, bound)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """Rows of ``x`` (tokens, embed_dim) in the order of the experts, ``counts[e]`` for expert e, each through its network."""
        # Unbound once: indexing expert by expert would make a gradient of the whole stack for each of them.
        stacks = (self.gate_proj.unbind(), self.up_proj.unbind(), self.down_proj.unbind())
        parts = [
            F.linear(F.silu(F.linear(rows, gate)) * F.linear(rows, up), down)
            for rows, gate, up, down in zip(x.split(counts), *stacks, strict=True)
        ]
        return torch.cat(parts)

    def extra_repr(self) -> str:
        return f"{self.num_experts}, {self.embed_dim}, {self.hidden_dim}"


class MixtureOfExperts(nn.Module):
    r"""Sparse feed-forward block: a router sends every token to ``top_k`` of ``num_experts`` gated networks.

    With router probabilities :math:`p = \mathrm{softmax}(W_r x)`, the k largest of them scaled to sum 1 as weights w:

    .. math::
        y = \sum_{e \in \mathrm{top}_k} w_e\, f_e(x) + \sum_s f_s(x), \qquad
        f(x) = W_d\bigl(\mathrm{silu}(W_g x) \odot W_u x\bigr)

    where the second sum runs over shared networks, which all tokens use. So that no network starves, the loss should be added that is
    returned beside y,

    .. math:: L = \alpha E \sum_e f_e P_e

    with the share :math:`f_e` of all (token, slot) pairs that went to expert e, without gradient, and the mean probability
    :math:`P_e`. It is :math:`\alpha` for uniform probabilities, and up to :math:`\alpha E / k` where all tokens go one way.

    Args:
        embed_dim: width of input and output.
        hidden_dim: width inside each expert.
        num_experts: routed experts E (default 8).
        top_k: experts a token uses (default 2).
        num_shared: experts that every token uses besides (default 1); may be 0.
        aux_loss_weight: :math:`\alpha` (default 0.01).
        device, dtype: of the parameters.

    Shape:
        input (..., embed_dim), output the same and a tensor without dimensions.

    Raises:
        ValueError: ``top_k`` not within 1 and ``num_experts``, a negative ``num_shared`` or ``aux_loss_weight``, or a size below 1.

    Example:
        >>> from thalweg.optim import Muon
        >>> model = nn.ModuleList([MixtureOfExperts(16, 32, num_experts=4), nn.Linear(16, 3)])
        >>> y, aux_loss = model[0](torch.randn(2, 5, 16))
        >>> (y.square().mean() + aux_loss).backward()
        >>> [(g["param_names"][-1], g["rule"]) for g in Muon(model).param_groups if g.get("batched")]
        [('0.shared.down_proj', 'muon')]
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        num_experts: int = 8,
        top_k: int = 2,
        num_shared: int = 1,
        aux_loss_weight: float = 0.01,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be from 1 to num_experts ({num_experts}), not {top_k}")
        if num_shared < 0 or aux_loss_weight < 0:
            raise ValueError(f"num_shared and aux_loss_weight can't be negative: {num_shared}, {aux_loss_weight}")
        self.num_experts, self.top_k, self.aux_loss_weight = num_experts, top_k, aux_loss_weight
        self.router = nn.Linear(embed_dim, num_experts, bias=False, device=device, dtype=dtype)
        self.experts = StackedExperts(num_experts, embed_dim, hidden_dim, device, dtype)
        self.shared = StackedExperts(num_shared, embed_dim, hidden_dim, device, dtype) if num_shared else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)  # under autocast in fewer bits than the input
        probabilities = logits.softmax(-1, dtype=torch.float32 if logits.dtype.itemsize < 4 else None)
        weights, chosen = probabilities.topk(self.top_k)
        weights = weights / weights.sum(-1, keepdim=True)
        load = chosen.flatten().bincount(minlength=self.num_experts)
        y = self._routed(tokens, weights.to(x.dtype), chosen, load.tolist())
        if self.shared is not None:
            count = self.shared.num_experts
            each = self.shared(tokens.repeat(count, 1), [len(tokens)] * count)
            y = y + each.unflatten(0, (count, -1)).sum(0)
        share = load.to(probabilities.dtype) / max(1, chosen.numel())
        mean = probabilities.sum(0) / max(1, len(tokens))
        aux_loss = self.aux_loss_weight * self.num_experts * (share * mean).sum()
        return y.view(x.shape), aux_loss

    def _routed(self, tokens: Tensor, weights: Tensor, chosen: Tensor, load: list[int]) -> Tensor:
        """The routed experts' part: tokens sorted by expert, and the results put back in order."""
        order = chosen.flatten().argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        done = self.experts(tokens[order // self.top_k], load)[place]
        return (done.unflatten(0, (-1, self.top_k)) * weights[..., None]).sum(1)

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, aux_loss_weight={self.aux_loss_weight}"
