"""How much training changed a network: its weights, its hidden activity, its tangent kernel (arXiv:2310.08513)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thalweg.autodiff import FlatModel, eval_mode
from thalweg.probe.empirical_ntk import empirical_ntk
from thalweg.probe.kernel_alignment import kernel_alignment, representation_alignment, sign_similarity


class Laziness(NamedTuple):
    """What :meth:`LazinessTracker.report` finds. Lazy training has changes near 0 and alignments near 1.

    Args:
        weight_change: Euclidean distance of the parameters from their start.
        relative_weight_change: the same over the start's norm.
        kernel_alignment: cosine of the tangent kernels of start and now.
        representation_alignment: that of the Gram matrices of the hidden activity; ``None`` without ``hidden``.
        sign_similarity: share of hidden units and examples of unchanged sign; ``None`` without ``hidden``.

    Example:
        >>> from thalweg.probe import LazinessTracker
        >>> net = nn.Linear(2, 1)
        >>> LazinessTracker(net, torch.eye(2)).report().weight_change
        0.0
    """

    weight_change: float
    relative_weight_change: float
    kernel_alignment: float
    representation_alignment: float | None = None
    sign_similarity: float | None = None


class LazinessTracker:
    r"""Remembers a network as it is now, to say later how far it has moved.

    Only networks that have come down to a similar loss should be compared: one that has learnt little has changed little.

    Args:
        model: evaluated in evaluation mode, left as it was.
        inputs: probe examples ``(B, ...)``; the Jacobian of all of them is held while a kernel is made.
        params: names of the parameters to follow (of weights and kernel); ``None`` takes all that require gradients.
        hidden: name of the module whose output is the hidden activity, flattened to ``(B, units)``.
        chunk_size: examples differentiated at once; ``None`` is all.

    Attributes:
        kernel: the tangent kernel at the start, see :func:`empirical_ntk`.

    Raises:
        ValueError: there is no such parameter or module, or the kernel is zero.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 1))
        >>> x, y = torch.randn(8, 4), torch.randn(8, 1)
        >>> tracker = LazinessTracker(net, x, hidden="1")
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> for _ in range(100):
        ...     loss = (net(x) - y).square().mean()
        ...     optimizer.zero_grad(); loss.backward(); optimizer.step()
        >>> found = tracker.report()
        >>> 0 < found.relative_weight_change < 0.5 < found.kernel_alignment < 1
        True
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        *,
        params: Iterable[str] | None = None,
        hidden: str | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.model, self.inputs, self.hidden, self.chunk_size = model, inputs, hidden, chunk_size
        self.params = None if params is None else tuple(params)
        if hidden is not None and hidden not in dict(model.named_modules()):
            raise ValueError(f"{type(model).__name__} has no module {hidden!r}")
        self._weights, self.kernel, self._activity = self._state()
        if not bool(self.kernel.any()):
            raise ValueError("the tangent kernel is zero: no followed parameter moves an output of these examples")

    def report(self) -> Laziness:
        """The changes since the tracker was made."""
        weights, kernel, activity = self._state()
        change = (weights - self._weights).norm().item()
        found = Laziness(
            change, change / max(self._weights.norm().item(), 1e-300), kernel_alignment(self.kernel, kernel).item()
        )
        if activity is None or self._activity is None:
            return found
        return found._replace(
            representation_alignment=representation_alignment(self._activity, activity).item(),
            sign_similarity=sign_similarity(self._activity, activity).item(),
        )

    def _state(self) -> tuple[Tensor, Tensor, Tensor | None]:
        weights = FlatModel(self.model, params=self.params).vector.clone()
        kernel = empirical_ntk(self.model, self.inputs, params=self.params, chunk_size=self.chunk_size)
        return weights, kernel, None if self.hidden is None else self._hidden_activity(self.hidden)

    def _hidden_activity(self, name: str) -> Tensor:
        seen: list[Tensor] = []

        def remember(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen.append(output.detach().flatten(1))

        handle = self.model.get_submodule(name).register_forward_hook(remember)
        try:
            with torch.no_grad(), eval_mode(self.model):
                self.model(self.inputs)
        finally:
            handle.remove()
        if not seen:
            raise ValueError(f"the module {name!r} isn't used in the forward pass")
        return seen[-1].clone()
