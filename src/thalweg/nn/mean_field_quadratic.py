"""A hidden layer of nearly linear units whose mean is the output: a network that can be made to grok (arXiv:2310.06110)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MeanFieldQuadratic(nn.Module):
    r"""The network :math:`f(x) = \frac{\alpha}{N} \sum_i \varphi(w_i \cdot x)`, :math:`\varphi(h) = h + \frac\varepsilon2 h^2`.

    Weights start as :math:`N(0, I)`. A large output scale :math:`\alpha` makes training lazy: with the step size
    :math:`N / \alpha^2` functions move as fast as before, weights :math:`1 / \alpha` as far. A small :math:`\varepsilon` makes the
    first tangent kernel fit quadratic targets badly.

    Args:
        in_features: D.
        width: N.
        eps: curvature of the units (default 0.1).
        alpha: output scale (default 1).
        center: subtract what the network gives at its start (default), so that a large scale doesn't add noise.
        generator: source of randomness, on the CPU.
        dtype, device: of the weights.

    Shape:
        ``(..., D)`` to ``(...)``.

    Raises:
        ValueError: a size or ``alpha`` isn't positive.

    Example:
        >>> net = MeanFieldQuadratic(50, 200, alpha=4.0)
        >>> net(torch.randn(3, 50)).tolist()
        [0.0, 0.0, 0.0]
    """

    start: Tensor

    def __init__(
        self,
        in_features: int,
        width: int,
        eps: float = 0.1,
        alpha: float = 1.0,
        *,
        center: bool = True,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or width < 1 or not alpha > 0:
            raise ValueError("in_features, width and alpha must be positive")
        start = torch.randn(width, in_features, generator=generator, dtype=dtype).to(device)
        self.weight = nn.Parameter(start.clone())
        self.register_buffer("start", start if center else None)
        self.eps, self.alpha = eps, alpha

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        outputs = self._outputs(self.weight, x)
        return outputs if self.start is None else outputs - self._outputs(self.start, x)

    def _outputs(self, weight: Tensor, x: Tensor) -> Tensor:
        hidden = x @ weight.mT
        return self.alpha * (hidden + self.eps / 2 * hidden.square()).mean(-1)

    def extra_repr(self) -> str:
        """Sizes and settings, for ``print``."""
        width, inputs = self.weight.shape
        return f"{inputs}, {width}, eps={self.eps}, alpha={self.alpha}, center={self.start is not None}"
