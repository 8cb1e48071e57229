"""A model as a function of one flat vector of its parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call


class FlatModel:
    """A model seen as ``f(vector, inputs)``, the form in which curvature and per-example gradients are easy to write.

    The vector holds the chosen parameters, each flattened, in the order of ``model.named_parameters()`` (shared ones
    once). The model itself is never changed. It is evaluated in whatever mode it is in: see
    :func:`~thalweg.autodiff.eval_mode`.

    Args:
        model: any module whose forward pass takes one input.
        params: names of the parameters in the vector; ``None`` takes all that require gradients.
        dtype: real type to compute in: parameters, buffers and inputs are converted. ``None`` keeps the model's own
            types.

    Attributes:
        vector: the current parameters, ``(size,)``, a detached copy.
        size: number of parameters P.

    Raises:
        ValueError: a name is not a parameter of the model, or there is no parameter.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> f = FlatModel(net)
        >>> f(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 10.0]])).item()
        43.0
    """

    def __init__(
        self, model: nn.Module, *, params: Iterable[str] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        known = dict(model.named_parameters())
        wanted = {name for name, p in known.items() if p.requires_grad} if params is None else set(params)
        if missing := wanted - known.keys():
            raise ValueError(f"{type(model).__name__} has no parameter {sorted(missing)[0]!r}")
        if not wanted:
            raise ValueError(f"{type(model).__name__} has no trainable parameter")
        self.model = model
        self.dtype = dtype
        self._like = {name: p.detach() for name, p in known.items() if name in wanted}
        fixed = {name: p.detach() for name, p in known.items() if name not in wanted}
        self._fixed = {name: self.cast(t) for name, t in (fixed | dict(model.named_buffers())).items()}
        self.vector = self.cast(torch.cat([p.flatten() for p in self._like.values()]))
        self.size = self.vector.numel()

    def cast(self, tensor: Tensor) -> Tensor:
        """``tensor`` in the type to compute in; whole numbers stay what they are."""
        return tensor.to(self.dtype) if self.dtype is not None and tensor.is_floating_point() else tensor

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """The named parameters that ``vector`` holds."""
        pieces = vector.split([p.numel() for p in self._like.values()])
        return {
            name: piece.view_as(like).to(self.dtype or like.dtype)
            for (name, like), piece in zip(self._like.items(), pieces, strict=True)
        }

    def __call__(self, vector: Tensor, inputs: Tensor) -> Tensor:
        """The model's outputs with the parameters in ``vector`` (differentiable in it)."""
        return functional_call(self.model, self._fixed | self.unflatten(vector), (self.cast(inputs),))
