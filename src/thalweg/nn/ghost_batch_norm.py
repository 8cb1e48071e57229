"""Batch normalization over small virtual batches (arXiv:1705.08741)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from thalweg.registry import method


class _GhostBatchNorm(_BatchNorm):
    momentum: float

    def __init__(
        self,
        num_features: int,
        ghost_size: int = 128,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(ghost_size, momentum)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.ghost_size = ghost_size

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        sizes = _near_equal(len(input), max(1, len(input) // self.ghost_size))
        if sizes[-1] * input[:1, :1].numel() == 1:
            raise ValueError(
                f"a ghost batch of {tuple(input.shape)} with ghost_size={self.ghost_size} has one value per channel: "
                "take a larger ghost_size"
            )
        tracked = self.training and self.track_running_stats
        if tracked and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        mean, var = (self.running_mean, self.running_var) if tracked else (None, None)
        normalized = [
            F.batch_norm(chunk, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
            for chunk in input.split(sizes)
        ]
        return torch.cat(normalized)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


class GhostBatchNorm1d(_GhostBatchNorm, nn.BatchNorm1d):
    r"""Batch normalization whose statistics come from virtual batches of about ``ghost_size`` examples.

    In training mode the batch of B examples is split, in order, into :math:`n = \max(1, \lfloor B / s \rfloor)` chunks
    whose sizes differ by at most one. Each chunk k is normalized by its own mean and biased variance,

    .. math:: y = \gamma\,\frac{x - \mu_k}{\sqrt{\sigma_k^2 + \epsilon}} + \beta,

    and the running statistics take one step a chunk, in order: :math:`\mu \leftarrow (1 - \eta)\mu + \eta\mu_k`, the
    variance likewise with the unbiased estimate. With n chunks a call the old value thus keeps a weight of
    :math:`(1 - \eta)^n`: lower the momentum where n is above 16 or so. A batch below 2 s is one chunk, and the layer is
    then ``nn.BatchNorm1d``, as it always is in evaluation mode. Under data parallelism each process splits its share.

    Its state dict has the keys of ``nn.BatchNorm1d``; ``num_batches_tracked`` counts calls, not chunks.

    Args:
        num_features: channels C of an input of shape ``(B, C)`` or ``(B, C, L)``.
        ghost_size: examples s in a virtual batch, at least 1.
        eps: added to the variance.
        momentum: :math:`\eta`, the weight of one chunk in the running statistics; the cumulative average (``None``) is
            refused.
        affine: learn :math:`\gamma` and :math:`\beta`.
        track_running_stats: keep running statistics; ``False`` uses the chunks' own in evaluation too.
        device, dtype: of the parameters and buffers.

    Raises:
        ValueError: ``ghost_size`` below 1, ``momentum`` is ``None``, an input of the wrong dimension, or a chunk with a
            single value per channel.

    Example:
        >>> norm = GhostBatchNorm1d(1, ghost_size=2)
        >>> norm(torch.tensor([[0.0], [2.0], [10.0], [14.0]])).flatten().round().tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """


class GhostBatchNorm2d(_GhostBatchNorm, nn.BatchNorm2d):
    """:class:`GhostBatchNorm1d` for inputs of shape ``(B, C, H, W)``; a chunk's statistics run over all its pixels.

    Example:
        >>> GhostBatchNorm2d(3, ghost_size=4)(torch.randn(8, 3, 5, 5)).shape
        torch.Size([8, 3, 5, 5])
    """


class GhostBatchNorm3d(_GhostBatchNorm, nn.BatchNorm3d):
    """:class:`GhostBatchNorm1d` for inputs of shape ``(B, C, D, H, W)``.

    Example:
        >>> GhostBatchNorm3d(3, ghost_size=4)(torch.randn(8, 3, 2, 2, 2)).shape
        torch.Size([8, 3, 2, 2, 2])
    """


_GHOSTS: dict[type[nn.Module], type[_GhostBatchNorm]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}


@method("ghost_batch_norm", search={"ghost_size": ("choice", 4, 8, 16, 32)})
def convert_ghost_batchnorm(model: nn.Module, ghost_size: int = 128) -> nn.Module:
    """Turn every BatchNorm layer of a model into its ghost form, in place.

    The layers stay the same objects with the same parameters, buffers and hooks; only their class changes. So
    optimizers made before go on working, layers used twice stay shared, and checkpoints load in both directions. Ghost
    layers get the new ``ghost_size``.

    Args:
        model: any module, or a BatchNorm layer itself.
        ghost_size: examples in a virtual batch, at least 1.

    Returns:
        The same model.

    Raises:
        ValueError: there is nothing to convert, a layer averages cumulatively (``momentum=None``), or a layer is
            another kind of BatchNorm (synchronized, lazy, fused with an activation) whose forward pass would be lost.
            Nothing has been changed then.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        >>> type(convert_ghost_batchnorm(net, ghost_size=16)[1]).__name__
        'GhostBatchNorm2d'
    """
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no BatchNorm layer to convert")
    for name, layer in layers:
        if type(layer) not in _GHOSTS and not isinstance(layer, _GhostBatchNorm):
            raise ValueError(f"can't convert {name or 'the model'}: {type(layer).__name__} is not a plain BatchNorm")
        _check(ghost_size, layer.momentum)
    for _, layer in layers:
        layer.__class__ = _GHOSTS.get(type(layer), type(layer))
        cast(_GhostBatchNorm, layer).ghost_size = ghost_size
    return model


def _near_equal(total: int, parts: int) -> list[int]:
    """Sizes of ``tensor_split``, for ``split``: its backward pass is one node, not a full-size gradient a chunk."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _check(ghost_size: int, momentum: float | None) -> None:
    if ghost_size < 1:
        raise ValueError(f"ghost_size must be at least 1, not {ghost_size}")
    if momentum is None:
        raise ValueError("ghost batch norm takes one running step a chunk: momentum must be a number, not None")
