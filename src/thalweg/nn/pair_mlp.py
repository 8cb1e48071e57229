r"""A two-layer perceptron of a pair of symbols, as in studies of grokking (arXiv:2509.21519)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": torch.square,
    "relu": F.relu,
    "silu": F.silu,
    "relu_squared": lambda u: F.relu(u).square(),
}


class PairMLP(nn.Module):
    r"""Two symbols in, one number for each symbol out, without biases.

    .. math:: f(a, b) = V^\top \sigma(U_a + W_b)

    which is a two-layer perceptron on both one-hot codes side by side; the rows of its first layer are looked up.

    Args:
        order: M, the number of symbols.
        width: K, hidden units.
        activation: :math:`\sigma`, one of "square" (default), "relu", "silu" and "relu_squared".
        device, dtype: as in :class:`torch.nn.Linear`.

    The weights start as those of :class:`torch.nn.Linear` do: ``first`` (2M, K) in :math:`\pm 1/\sqrt{2M}`, ``second`` (K, M) in
    :math:`\pm 1/\sqrt K`.

    Raises:
        ValueError: an unknown activation, fewer than two symbols, or no hidden unit.

    Example:
        >>> model = PairMLP(5, 16)
        >>> model(torch.tensor([[0, 1], [4, 4]])).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        order: int,
        width: int,
        activation: str = "square",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
        if order < 2 or width < 1:
            raise ValueError(f"at least two symbols and one hidden unit are needed, not {order} and {width}")
        self.order, self.width, self.activation = order, width, activation
        self.first = nn.Parameter(torch.empty(2 * order, width, device=device, dtype=dtype))
        self.second = nn.Parameter(torch.empty(width, order, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the weights anew."""
        with torch.no_grad():
            for weight in (self.first, self.second):
                bound = 1 / math.sqrt(weight.shape[0])
                weight.uniform_(-bound, bound, generator=generator)

    def features(self, pairs: Tensor) -> Tensor:
        """Activations of the hidden units, ``(n, K)``."""
        left, right = pairs.unbind(-1)
        return ACTIVATIONS[self.activation](F.embedding(left, self.first) + F.embedding(right + self.order, self.first))

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs ``(n, 2)`` of numbers from 0 to M - 1, to ``(n, M)``."""
        return self.features(pairs) @ self.second

    def extra_repr(self) -> str:
        """Shown in ``repr``."""
        return f"{self.order}, {self.width}, activation={self.activation!r}"


def centred_squared_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    r"""Mean over rows of the squared distance between centred outputs and centred one-hot labels.

    .. math:: \frac1n \sum_i \lVert \tilde o_i - \tilde y_i \rVert^2 = \frac1n \sum_i \big( \lVert \tilde o_i \rVert^2
        - 2\, \tilde o_{i, y_i} + 1 - \tfrac1M \big), \qquad \tilde o = o - \mathrm{mean}(o)

    Args:
        outputs: ``(n, M)``.
        labels: ``(n,)``, from 0 to M - 1.

    Returns:
        0-d tensor: 1 - 1/M for constant outputs, 0 for one-hot ones.

    Example:
        >>> centred_squared_loss(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
        tensor(0.7500)
    """
    centred = outputs - outputs.mean(-1, keepdim=True)
    right = centred.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return (centred.square().sum(-1) - 2 * right).mean() + 1 - 1 / outputs.shape[-1]
