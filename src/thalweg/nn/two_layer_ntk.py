"""A wide two-layer network in the scaling in which training it follows a kernel (arXiv:2401.15604)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoLayerNTK(nn.Module):
    r"""One ReLU layer that is trained, under fixed random signs.

    .. math:: f^i(z) = \frac{1}{\sqrt m} \sum_{r=1}^m a^i_r \max(0, w_r \cdot z), \qquad
              w_r \sim N(0, I), \quad a^i_r = \pm 1 .

    Append a one to the inputs for a bias. As m grows, gradient descent on the rows w follows kernel gradient descent
    with :func:`thalweg.solve.relu_ntk` in each output.

    Args:
        in_features: of the inputs.
        out_features: outputs, each with signs of its own.
        width: m, hidden units; even if ``antisymmetric``.
        antisymmetric: whether the second half of the units copies the first with the signs turned, so that the network
            starts as exactly zero.
        generator: source of randomness, on the CPU.
        dtype, device: of the weights.

    Shape:
        ``(..., in_features)`` to ``(..., out_features)``.

    Raises:
        ValueError: a size isn't positive, or ``width`` is odd where it must be even.

    Example:
        >>> net = TwoLayerNTK(4, 2, width=64)
        >>> net(torch.randn(3, 4)).abs().max().item()
        0.0
    """

    signs: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int,
        antisymmetric: bool = True,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if min(in_features, out_features, width) < 1:
            raise ValueError("in_features, out_features and width must be positive")
        if antisymmetric and width % 2:
            raise ValueError(f"an antisymmetric network needs an even width, not {width}")
        drawn = width // 2 if antisymmetric else width
        weight = torch.randn(drawn, in_features, generator=generator, dtype=dtype)
        signs = torch.randint(2, (out_features, drawn), generator=generator).to(weight.dtype) * 2 - 1
        self.antisymmetric = antisymmetric
        self.weight = nn.Parameter((torch.cat([weight, weight]) if antisymmetric else weight).to(device))
        self.register_buffer("signs", signs.to(device))  # of the first half, where the second has them turned

    def forward(self, z: Tensor) -> Tensor:
        """See the class."""
        if self.antisymmetric:  # pairs are subtracted first, so that they cancel to the last bit
            first, second = self.weight.chunk(2)
            hidden = (z @ first.mT).relu() - (z @ second.mT).relu()
        else:
            hidden = (z @ self.weight.mT).relu()
        return hidden @ self.signs.mT / len(self.weight) ** 0.5

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"{self.weight.shape[1]}, {self.signs.shape[0]}, width={len(self.weight)}, antisymmetric={self.antisymmetric}"
