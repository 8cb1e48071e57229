"""How alike two ways to predict are: token overlap, its cosine, order sensitivity, weight sparsity (arXiv:2310.08540)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


def token_overlap(p: Tensor, q: Tensor, k: int = 10) -> Tensor:
    r"""The share of the k likeliest outcomes that two distributions have in common, :math:`|T_k(p) \cap T_k(q)| / k`.

    Args:
        p, q: probabilities, ``(..., V)``; they broadcast.
        k: outcomes (default 10).

    Returns:
        ``(...)``, in [0, 1].

    Raises:
        ValueError: k exceeds V or is below 1, or the last dimension doesn't sum to 1 within 1e-4.

    Example:
        >>> token_overlap(torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.4, 0.1, 0.0, 0.5]), k=2)
        tensor(0.5000)
    """
    shared = _shared(p, q, k)
    return shared.sum(-1) / k


def overlap_cosine(p: Tensor, q: Tensor, k: int = 10) -> Tensor:
    r"""Cosine over the likeliest outcomes that two distributions share, with a penalty for those that they don't.

    .. math::
        \sum_{t \in T} p_t q_t \Big/ \sqrt{\sum_{t \in T} p_t^2 \sum_{t \in T} q_t^2 + k - |T|}, \qquad
        T = T_k(p) \cap T_k(q)

    and 0 where T is empty or has no probability. (The paper says less clearly where the penalty stands; this reading gives 1 for
    equal distributions and is symmetric.)

    Args, Returns, Raises:
        as for :func:`token_overlap`.

    Example:
        >>> overlap_cosine(torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.4, 0.1, 0.0, 0.5]), k=2)
        tensor(0.1961)
    """
    shared = _shared(p, q, k)
    a, b = p * shared, q * shared
    size = a.square().sum(-1) * b.square().sum(-1) + (k - shared.sum(-1))
    return torch.where(size > 0, (a * b).sum(-1) / size.sqrt(), 0.0)


def label_agreement(p: Tensor, q: Tensor, labels: Sequence[int] | Tensor) -> Tensor:
    """Whether two distributions have the same likeliest one of the ``labels``.

    Args:
        p, q: probabilities or scores, ``(..., V)``.
        labels: indices of the outcomes that count.

    Returns:
        Booleans ``(...)``.

    Example:
        >>> label_agreement(torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.0, 0.9, 0.1]), labels=[0, 1])
        tensor(True)
    """
    chosen = torch.as_tensor(labels, device=p.device)
    return p[..., chosen].argmax(-1) == q[..., chosen].argmax(-1)


class OrderSensitivity(NamedTuple):
    """What :func:`order_sensitivity` finds.

    Args:
        std: mean over queries and outcomes.
        per_query: means over outcomes, ``(queries,)``.

    Example:
        >>> from thalweg.probe import order_sensitivity
        >>> order_sensitivity(lambda order: torch.ones(2, 4) / 4, num_examples=5).per_query
        tensor([0., 0.])
    """

    std: float
    per_query: Tensor


def order_sensitivity(
    predict: Callable[[Tensor], Tensor],
    num_examples: int,
    num_orders: int = 10,
    generator: torch.Generator | None = None,
) -> OrderSensitivity:
    """Standard deviation of predicted probabilities over random orders of the examples; 0 if the order doesn't matter.

    Args:
        predict: gets a permutation, ``(num_examples,)``, and gives probabilities ``(queries, V)``.
        num_examples: examples to put in order.
        num_orders: random orders (default 10); the deviation is the population's.
        generator: source of randomness.

    Raises:
        ValueError: no example or fewer than two orders.

    Example:
        >>> words = torch.eye(3)
        >>> order_sensitivity(lambda order: words[order[:1]], num_examples=3).std > 0  # the first example wins
        True
    """
    if num_examples < 1 or num_orders < 2:
        raise ValueError(f"an example and two orders are needed, not {num_examples} and {num_orders}")
    orders = [torch.randperm(num_examples, generator=generator) for _ in range(num_orders)]
    spread = torch.stack([predict(order) for order in orders]).std(0, correction=0).mean(-1)
    return OrderSensitivity(spread.mean().item(), spread)


def weight_sparsity(model: nn.Module | Mapping[str, Tensor], relative: float = 1e-3) -> dict[str, float]:
    """The share of entries of each matrix that are smaller than ``relative`` times its largest one.

    Weights built by hand to perform gradient descent are zero almost everywhere; trained ones hardly anywhere.

    Args:
        model: a module, or matrices by name.
        relative: threshold as a share of the largest modulus (default 1e-3).

    Returns:
        Shares by name, of parameters with two dimensions or more.

    Example:
        >>> weight_sparsity({"W": torch.eye(4)})
        {'W': 0.75}
    """
    named = dict(model.named_parameters()) if isinstance(model, nn.Module) else model
    sizes = {name: weight.detach().abs() for name, weight in named.items() if weight.ndim >= 2}
    return {name: (size < relative * size.max()).float().mean().item() for name, size in sizes.items()}


def _shared(p: Tensor, q: Tensor, k: int) -> Tensor:
    """Which outcomes are among the k likeliest of both."""
    if not 1 <= k <= p.shape[-1]:
        raise ValueError(f"k must lie between 1 and the {p.shape[-1]} outcomes, not be {k}")
    for name, dist in (("p", p), ("q", q)):
        if not ((dist.sum(-1) - 1).abs() <= 1e-4).all():
            raise ValueError(f"{name} must hold probabilities that sum to 1 along the last dimension")

    def likeliest(dist: Tensor) -> Tensor:
        return torch.zeros_like(dist, dtype=torch.bool).scatter(-1, dist.topk(k, -1).indices, True)

    return likeliest(p) & likeliest(q)
