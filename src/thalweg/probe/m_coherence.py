"""How far the gradients of single examples agree: m-coherence (arXiv:2203.10036, arXiv:2008.01217)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.autodiff import FlatModel, batches, eval_mode, per_example_gradients


@dataclass(frozen=True)
class Coherence:
    r"""Agreement of n gradients :math:`g_i`, with :math:`S = \sum_i g_i` and :math:`Q = \sum_i \|g_i\|^2`.

    All are NaN if all gradients are zero. None changes when all gradients are scaled together.

    Attributes:
        m_coherence: :math:`\|S\|^2 / Q`, from 0 to n: how many of the examples a small step along one of them helps on average. 1 for
            orthogonal gradients, n for equal ones. Gradients that are zero don't change it.
        alpha: ``m_coherence / n``, from 0 to 1. The mean of n orthogonal gradients has 1 / n, so it depends on the sample's size.
        alpha_unbiased: :math:`(\|S\|^2 - Q) / ((n-1) Q)`, which doesn't: 0 for orthogonal gradients, 1 for equal ones.
        n: how many gradients.
        per_layer: m-coherence of each layer's part, by name.

    Example:
        >>> from thalweg.probe import gradient_coherence
        >>> net = nn.Linear(2, 1, bias=False)
        >>> X = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> found = gradient_coherence(net, lambda out, y: out.mean(), (X, torch.zeros(2)))
        >>> found.m_coherence, found.alpha
        (2.0, 1.0)
    """

    m_coherence: float
    alpha: float
    alpha_unbiased: float
    n: int
    per_layer: Mapping[str, float] = field(default_factory=dict)


class GradientCoherence:
    """Collects gradients, a few at a time, and says how far they agree; memory goes as one gradient.

    The gradients may be single examples' or those of micro-batches, whose averages agree more: with b examples each, alpha becomes
    :math:`b\\alpha / (1 + (b-1)\\alpha)` in expectation. Compare at equal loss: as examples are fitted, their gradients and with them
    the coherence fall by themselves.

    Args:
        layers: consecutive columns' names and numbers, such as ``{"0.weight": 6, "0.bias": 2}``; ``None``: no parts.

    Raises:
        ValueError: in ``update``, rows of another length; in ``compute``, fewer than two gradients.

    Example:
        >>> coherence = GradientCoherence()
        >>> coherence.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        >>> coherence.update(torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))
        >>> found = coherence.compute()
        >>> found.m_coherence, found.alpha, found.alpha_unbiased
        (1.0, 0.25, 0.0)
    """

    def __init__(self, layers: Mapping[str, int] | None = None) -> None:
        self.layers = dict(layers or {})
        self.reset()

    def reset(self) -> None:
        """Forget all gradients."""
        self.n = 0
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None

    def update(self, gradients: Tensor) -> None:
        """Take in gradients ``(k, P)``, one a row. Sums are kept in float64."""
        rows = gradients.detach()
        width = sum(self.layers.values()) if self.layers else rows.shape[-1] if self._sum is None else len(self._sum)
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(f"gradients must be rows of {width} numbers, not of shape {tuple(rows.shape)}")
        total = rows.sum(0, dtype=torch.float64)
        squares = torch.stack([part.square().sum(dtype=torch.float64) for part in self._parts(rows)])
        self._sum = total if self._sum is None else self._sum + total
        self._squares = squares if self._squares is None else self._squares + squares
        self.n += len(rows)

    def compute(self) -> Coherence:
        """The coherence of all gradients so far."""
        if self.n < 2 or self._sum is None or self._squares is None:
            raise ValueError(f"coherence needs at least two gradients, not {self.n}")
        of_sum = [part.square().sum().item() for part in self._parts(self._sum[None])]
        squares = self._squares.tolist()
        whole, total = sum(of_sum), sum(squares)
        return Coherence(
            m_coherence=_ratio(whole, total),
            alpha=_ratio(whole, self.n * total),
            alpha_unbiased=_ratio(whole - total, (self.n - 1) * total),
            n=self.n,
            per_layer={name: _ratio(a, b) for name, a, b in zip(self.layers, of_sum, squares, strict=False)},
        )

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(list(self.layers.values()), dim=1) if self.layers else (rows,)


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def gradient_coherence(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    data: Any,
    *,
    params: Iterable[str] | None = None,
    batch_size: int = 64,
) -> Coherence:
    """The coherence of the examples' own gradients, whole and by parameter.

    The model is evaluated in evaluation mode (examples mustn't mix) and left as it was, gradients included.

    Args:
        model: any module of one input.
        loss_fn: ``loss_fn(outputs, targets)``, called on batches of one.
        data: a pair of tensors ``(X, y)``, a dataset, a DataLoader or a list of batches.
        params: names of the parameters; ``None`` takes all that require gradients.
        batch_size: examples differentiated at once; memory goes as their number times the parameters'.

    Returns:
        See :class:`Coherence`; ``per_layer`` is by parameter name.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> X, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2)
        >>> gradient_coherence(net, lambda out, y: out.mean(), (X, y)).m_coherence
        1.0
    """
    flat = FlatModel(model, params=params)
    collected = GradientCoherence({name: part.numel() for name, part in flat.unflatten(flat.vector).items()})
    with eval_mode(model):
        for inputs, targets in batches(data, batch_size):
            device = flat.vector.device
            rows = per_example_gradients(flat, loss_fn, inputs.to(device), targets.to(device), chunk_size=batch_size)
            collected.update(rows)
    return collected.compute()
