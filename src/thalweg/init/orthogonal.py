"""Orthogonal start for a whole model (arXiv:1312.6120)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from thalweg.linalg import haar
from thalweg.registry import method


@method("orthogonal", search={"gain": ("log", 0.5, 2.0)})
def orthogonal_(
    model: nn.Module,
    gain: float = 1.0,
    *,
    generator: torch.Generator | None = None,
    conv: Literal["delta", "flatten"] = "delta",
    zero_bias: bool = True,
) -> nn.Module:
    r"""Make every weight matrix of a model a random (semi-)orthogonal matrix times ``gain``, in place.

    Every matrix becomes :math:`W = g\,Q` with :math:`Q^\top Q = I` (tall) or :math:`Q Q^\top = I` (wide), uniform over
    all such :math:`Q`. A product of L square ones is :math:`g^L` times an isometry, so with g = 1 the time that a deep
    linear network needs to start learning does not grow with its depth, as it does from a Gaussian start.

    What counts as a weight matrix:

    ========================= =========================================================================
    ``nn.Linear``             its weight, ``(out, in)``
    ``nn.Conv*d``             see ``conv``; each group on its own; transposed convolutions likewise
    ``nn.MultiheadAttention`` query, key and value blocks each on their own, and the output projection
    ``nn.RNN, LSTM, GRU``     each gate's input and hidden matrix on its own; cells likewise
    ========================= =========================================================================

    Norm layers, embeddings, weights tied to an embedding, and parameters that a module of yours declares itself stay as
    they are. A weight shared by several layers is drawn once. Layers that a model starts at zero on purpose are
    overwritten too: call this on the sub-modules you mean if that matters.

    Args:
        model: any module; its parameters are changed.
        gain: singular value of every matrix, positive. 1 is the isometry; tanh networks like 1 to 1.1, ReLU networks up
            to :math:`\sqrt 2`.
        generator: source of randomness.
        conv: ``"delta"`` (default) makes the *convolution as a map of images* orthogonal: the matrix sits on the middle
            tap and all other taps are zero; with a stride of s, on the s taps a dimension that one output position does
            not share with its neighbours (a patch embedding thus uses its whole patch). ``"flatten"`` orthogonalizes
            the kernel reshaped to ``(out, in * taps)``, as ``torch.nn.init.orthogonal_`` does: a filter bank with every
            tap in use, but its singular values as a map of images spread up to :math:`\sqrt{\mathrm{taps}}`, so the
            statement about depth no longer holds.
        zero_bias: set the biases of these layers to zero, so that the start is the linear map of the theory; ``False``
            leaves them.

    Returns:
        The same model.

    Raises:
        ValueError: the gain is not positive, ``conv`` is unknown, the model has no weight matrix, or a weight can't be
            written: on the meta device, lazy, quantized, or computed by a parametrization. Nothing has been changed
            then.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> net = orthogonal_(net, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(net[0].weight @ net[0].weight.T, torch.eye(8), atol=1e-5)
        True
    """
    if not (gain > 0 and math.isfinite(gain)):
        raise ValueError(f"gain must be a positive number, not {gain}")
    if conv not in ("delta", "flatten"):
        raise ValueError(f"conv must be 'delta' or 'flatten', not {conv!r}")
    matrices = list(_matrices(model))
    if not matrices:
        raise ValueError(
            f"{type(model).__name__} has no linear, convolution, attention or recurrent weight to initialize"
        )
    with torch.no_grad():
        for layer, weight, blocks in matrices:
            for block in weight.chunk(blocks):
                if isinstance(layer, _ConvNd) and conv == "delta":
                    block.zero_()
                    block = block[_own_taps(layer)]
                _fill_(block, gain, generator)
        if zero_bias:
            for layer, _, _ in matrices:
                for name, bias in layer.named_parameters(recurse=False):
                    if "bias" in name and name not in ("bias_k", "bias_v"):  # those two are tokens, not biases
                        bias.zero_()
    return model


def _fill_(block: Tensor, gain: float, generator: torch.Generator | None) -> None:
    rows = block.shape[0]
    matrix = haar(
        rows,
        block.numel() // rows,
        generator=generator,
        dtype=torch.promote_types(block.dtype, torch.float32),
        device=block.device,
    )
    block.copy_(gain * matrix.reshape(block.shape))


def _matrices(model: nn.Module) -> Iterator[tuple[nn.Module, Tensor, int]]:
    """Each weight to draw, once: its layer, the tensor, and how many matrices are stacked along its first dimension."""
    seen = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    for path, layer in model.named_modules():
        for name, blocks in _weights(layer):
            weight = getattr(layer, name)
            if id(weight) not in seen:
                seen.add(id(weight))
                _check_writable(f"{path}.{name}".lstrip("."), weight)
                yield layer, weight, blocks


def _weights(layer: nn.Module) -> list[tuple[str, int]]:
    match layer:
        case nn.Linear():
            return [("weight", 1)]
        case _ConvNd():
            return [("weight", layer.groups)]
        case nn.MultiheadAttention(in_proj_weight=None):
            return [("q_proj_weight", 1), ("k_proj_weight", 1), ("v_proj_weight", 1)]
        case nn.MultiheadAttention():
            return [("in_proj_weight", 3)]
        case nn.RNNBase() | nn.RNNCellBase():
            matrices = [(name, p) for name, p in layer.named_parameters(recurse=False) if p.dim() == 2]
            return [(name, max(1, p.shape[0] // layer.hidden_size)) for name, p in matrices]
    return []


def _own_taps(layer: _ConvNd) -> tuple[slice, ...]:
    """The taps that meet different pixels at different output positions: one a dimension, or ``stride`` of them.

    They start at the middle, so that with the usual padding of (kernel - 1) // 2 they tile the image exactly. Where
    stride and dilation have a common factor, neighbouring taps do meet the same pixels, and one tap is left.
    """
    taps = [slice(None), slice(None)]
    for kernel, stride, dilation in zip(layer.kernel_size, layer.stride, layer.dilation, strict=True):
        extent = min(stride, kernel) if math.gcd(stride, dilation) == 1 else 1
        start = min((kernel - 1) // 2, kernel - extent)
        taps.append(slice(start, start + extent))
    return tuple(taps)


def _check_writable(name: str, weight: Tensor) -> None:
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"{name} is computed from other parameters: initialize before adding the parametrization")
    if is_lazy(weight):
        raise ValueError(f"{name} has no shape yet: run the model once on a batch before initializing it")
    if weight.is_meta:
        raise ValueError(
            f"{name} is on the meta device: materialize the model first, e.g. model.to_empty(device='cpu')"
        )
    if not (weight.is_floating_point() or weight.is_complex()):
        raise ValueError(f"{name} holds {weight.dtype}, not real numbers: initialize before quantizing")
