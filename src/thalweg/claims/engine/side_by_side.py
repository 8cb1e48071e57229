"""Small networks that are trained side by side, each with settings of its own, on the same batches from the same start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SideBySide:
    """Copies of one fully connected ReLU network whose weights lie in common tensors, so that one pass serves all.

    Small networks spend most of their time between operations. With ten of them in one product, a grid of settings takes little
    longer than a few. Copies never touch: one that breaks down leaves the others as they are.

    Args:
        layers: weights ``(in, out)`` and biases ``(out,)`` of every layer at the start.
        copies: how many networks.

    Example:
        >>> nets = SideBySide([(torch.eye(2), torch.zeros(2))], copies=3)
        >>> optimizer = torch.optim.SGD([{"params": [nets.param(i)], "lr": 0.1 * i} for i in range(3)])
        >>> losses = nets.gradients(torch.eye(2), torch.tensor([0, 1]))
        >>> optimizer.step()
        >>> (nets.losses(torch.eye(2), torch.tensor([0, 1])) < losses).tolist()
        [False, True, True]
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], copies: int) -> None:
        self.copies = copies
        self._shapes = [shape for weight, bias in layers for shape in (weight.shape, (1, *bias.shape))]
        start = torch.cat([part.detach().flatten() for layer in layers for part in layer])
        self._all = start.repeat(copies, 1).requires_grad_()
        self._gradients = self._all.grad = torch.zeros_like(self._all)  # backward adds to it in place

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weights ``(copies, in, out)`` and biases ``(copies, 1, out)`` as they are now."""
        columns = self._all.split([math.prod(shape) for shape in self._shapes], 1)
        parts = [part.unflatten(1, tuple(shape)) for part, shape in zip(columns, self._shapes, strict=True)]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def param(self, copy: int) -> nn.Parameter:
        """All weights and biases of one network as one parameter, which lies in the common tensors as its gradient does."""
        own = nn.Parameter(self._all.detach()[copy])
        own.grad = self._gradients[copy]
        return own

    def logits(self, inputs: Tensor) -> Tensor:
        """Outputs of all networks, ``(copies, n, classes)``, for ``inputs`` of shape ``(n, in)``."""
        hidden = inputs.expand(self.copies, *inputs.shape)
        for place, (weight, bias) in enumerate(self.layers()):
            hidden = torch.baddbmm(bias, hidden.relu() if place else hidden, weight)
        return hidden

    def losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of each network, ``(copies,)``."""
        logits = self.logits(inputs)
        every = F.cross_entropy(logits.flatten(0, 1), labels.repeat(self.copies), reduction="none")
        return every.view(self.copies, -1).mean(1)

    def gradients(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Fill all gradients with those of each network's own loss, and return the losses."""
        self._gradients.zero_()
        losses = self.losses(inputs, labels)
        losses.sum().backward()
        return losses.detach()

    def clip(self, norms: Tensor) -> None:
        """Scale each network's gradient down to a norm of its own; infinity leaves it.

        Args:
            norms: ``(copies,)``.
        """
        factors = (norms / self._gradients.norm(dim=1).clamp(min=1e-30)).clamp(max=1.0)
        self._gradients.mul_(factors[:, None])

    @torch.no_grad()
    def measured(self, inputs: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
        """Share of right answers and mean loss of each network; 0 and infinity where outputs aren't finite."""
        logits = self.logits(inputs)
        good = logits.isfinite().flatten(1).all(1)
        right = (logits.argmax(2) == labels).double().mean(1)
        losses = self.losses(inputs, labels).double()
        return (right * good).tolist(), losses.where(good & losses.isfinite(), torch.inf).tolist()
