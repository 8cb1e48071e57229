"""A hidden layer that is never trained (arXiv:2312.03951)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RandomFeatures(nn.Module):
    r"""Features :math:`\varphi(x W)` with fixed W, entries :math:`N(0, \mathrm{scale}^2 / \mathrm{in\_features})`.

    Args:
        in_features: of the inputs.
        num_features: p.
        activation: "relu" or "tanh".
        scale: of the weights.
        generator: source of randomness, on the CPU.
        dtype, device: of the weights.

    Shape:
        ``(..., in_features)`` to ``(..., num_features)``.

    Raises:
        ValueError: an unknown activation, or a size or scale that isn't positive.

    Example:
        >>> RandomFeatures(784, 50)(torch.rand(3, 784)).shape
        torch.Size([3, 50])
    """

    weight: Tensor

    def __init__(
        self,
        in_features: int,
        num_features: int,
        activation: str = "relu",
        scale: float = 1.0,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if activation not in ("relu", "tanh"):
            raise ValueError(f"activation must be 'relu' or 'tanh', not {activation!r}")
        if in_features < 1 or num_features < 1 or not scale > 0:
            raise ValueError("in_features, num_features and scale must be positive")
        weight = torch.randn(in_features, num_features, generator=generator, dtype=dtype) * scale / in_features**0.5
        self.register_buffer("weight", weight.to(device))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        hidden = x @ self.weight
        return hidden.relu() if self.activation == "relu" else hidden.tanh()

    def extra_repr(self) -> str:
        """Sizes and activation, for ``print``."""
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, activation={self.activation!r}"
