"""TrAct: a first layer whose weights move so that its outputs take the gradient step (arXiv:2410.23970)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from thalweg.registry import method


def tract_weight_grad(x: Tensor, grad: Tensor, lam: float = 0.1) -> Tensor:
    r"""The weight gradient that TrAct puts in the place of :math:`G^\top x` (arXiv:2410.23970).

    A step on the outputs z = x W^T would move them by :math:`-\eta b G`. The change of weights that comes nearest to it, under a ridge
    penalty, is :math:`-\eta` times

    .. math::
        G^\top x \left(\tfrac1b x^\top x + \lambda I_n\right)^{-1} = G^\top \left(\tfrac1b x x^\top + \lambda I_b\right)^{-1} x

    of which the smaller system is solved, in float32 at least. It is the gradient whitened by the inputs' uncentred covariance:
    along a direction of second moment s it is divided by :math:`s + \lambda`.

    Args:
        x: inputs, ``(..., b, n)``.
        grad: gradient of the loss, a mean over examples, with respect to the outputs: ``(..., b, m)``.
        lam: ridge :math:`\lambda` above 0 (default 0.1, meant for inputs of mean 0 and standard deviation 1).

    Returns:
        ``(..., m, n)`` in the wider of the two dtypes, float32 at least. NaN where the system can't be solved (inputs not finite, or
        so large that the ridge is lost in rounding).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
        >>> grad = torch.tensor([[1.0], [-1.0], [0.5]]) / 3
        >>> tract_weight_grad(x, grad)
        tensor([[ 0.8445, -0.4424]])
    """
    dtype = torch.promote_types(torch.promote_types(x.dtype, grad.dtype), torch.float32)
    x, grad = x.to(dtype), grad.to(dtype)
    count, width = x.shape[-2:]
    if width <= count:
        return _solve(x.mT @ x / count, lam, x.mT @ grad).mT
    return _solve(x @ x.mT / max(count, 1), lam, grad).mT @ x


def _solve(gram: Tensor, lam: float, right: Tensor) -> Tensor:
    """(gram + lam I)^-1 right."""
    system = gram + lam * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(system)  # unchecked: raising would make an accelerator wait
    solution = torch.cholesky_solve(right, factor)
    return torch.where((info == 0)[..., None, None], solution, torch.nan)


class _LinearFunction(torch.autograd.Function):
    """``F.linear`` with TrAct's weight gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, lam: float) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.lam = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        with torch.autocast(grad.device.type, enabled=False):
            rows = grad.reshape(-1, grad.shape[-1])
            if ctx.needs_input_grad[0]:
                grad_x = (grad @ weight.to(grad.dtype)).to(x.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = tract_weight_grad(x.reshape(-1, x.shape[-1]), rows, ctx.lam).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = rows.sum(0).to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None


class _Conv2dFunction(torch.autograd.Function):
    """``F.conv2d`` with TrAct's weight gradient; every patch is an input."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, lam: float, geometry: tuple[Any, ...]) -> Tensor:
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.lam, ctx.geometry = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        with torch.autocast(grad.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                wide = weight.to(grad.dtype)
                grad_x = conv2d_input(x.shape, wide, grad, *ctx.geometry).to(x.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = _conv_weight_grad(x, grad, weight, ctx.lam, ctx.geometry)
            if ctx.needs_input_grad[2]:
                grad_bias = grad.sum((0, 2, 3)).to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None


def _conv_weight_grad(x: Tensor, grad: Tensor, weight: Tensor, lam: float, geometry: tuple[Any, ...]) -> Tensor:
    stride, padding, dilation, groups = geometry
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    patches = F.unfold(wide, weight.shape[2:], dilation, padding, stride)  # (batch, channels * kernel, places)
    rows = patches.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    outputs = grad.flatten(2).unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
    return tract_weight_grad(rows, outputs, lam).reshape(weight.shape).to(weight.dtype)


class TrActLinear(nn.Linear):
    r"""``nn.Linear`` whose weight gradient is the change of weights that best makes its outputs take a gradient step.

    Made for the first layer of vision models, patch embeddings included. There the plain gradient :math:`G^\top x` grows with the
    pixels' values, so that bright and high-contrast images decide; :func:`tract_weight_grad` says what is returned instead. The
    output, and the gradients of bias and input, are ``nn.Linear``'s. Any optimizer follows, at the learning rate it had (the
    authors' choice). All leading dimensions count as examples.

    The gradient of a batch is not the mean of those of its parts: under gradient accumulation or data parallelism each part is
    whitened by its own inputs, and per-example gradients (``torch.func``) are those of batches of one,
    :math:`g x^\top / (\|x\|^2 + \lambda)`.

    Args:
        in_features, out_features: n and m.
        bias: add a learned bias (default True).
        lam: ridge above 0 (default 0.1). Inputs should have mean 0 and standard deviation 1, or it loses its meaning.
        device, dtype: of the parameters.

    Raises:
        ValueError: ``lam`` isn't above 0.
        RuntimeError: on differentiating twice.

    The paper: arXiv:2410.23970.

    Example:
        >>> layer = TrActLinear(2, 1, bias=False)
        >>> layer(torch.tensor([[100.0, 0.0]])).sum().backward()
        >>> layer.weight.grad  # 100 / (100^2 + 0.1): a step of 1 moves the output by 1
        tensor([[0.0100, 0.0000]])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        lam: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(lam)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.lam = lam

    def forward(self, input: Tensor) -> Tensor:
        return _LinearFunction.apply(input, self.weight, self.bias, self.lam)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, lam={self.lam}"


class TrActConv2d(nn.Conv2d):
    """``nn.Conv2d`` with the weight gradient of :class:`TrActLinear`: its inputs are all patches of all images.

    Groups are solved apart. The backward pass unfolds the images, which takes as much memory as the kernel has elements times theirs.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as ``nn.Conv2d``'s.
        lam: ridge above 0 (default 0.1).
        device, dtype: of the parameters.

    Raises:
        ValueError: ``lam`` isn't above 0.
        RuntimeError: on differentiating twice.

    Example:
        >>> TrActConv2d(3, 8, 5, stride=2, padding=2)(torch.randn(4, 3, 32, 32)).shape
        torch.Size([4, 8, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        lam: float = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check(lam)
        kind: Any = padding_mode
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, kind, device, dtype
        )
        self.lam = lam

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.ndim == 3:
            return self._conv_forward(input[None], weight, bias)[0]
        padding: Any = self.padding
        if isinstance(padding, str) or self.padding_mode != "zeros":
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode), (0, 0)
        geometry = (self.stride, padding, self.dilation, self.groups)
        return _Conv2dFunction.apply(input, weight, bias, self.lam, geometry)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, lam={self.lam}"


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: TrActLinear,
    nn.Conv2d: TrActConv2d,
    TrActLinear: TrActLinear,
    TrActConv2d: TrActConv2d,
}
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.LayerNorm, nn.GroupNorm)


@method("tract", search={"lam": ("log", 1e-2, 1.0)})
def convert_tract(model: nn.Module, lam: float = 0.1, layer: str | None = None) -> nn.Module:
    """Turn a model's first linear or 2-d convolution layer into its TrAct form, in place (arXiv:2410.23970).

    The layer stays the same object with the same parameters and hooks; only its class changes. So optimizers made before go on
    working, and checkpoints load in both directions.

    Args:
        model: any module, or an ``nn.Linear`` or ``nn.Conv2d`` itself.
        lam: ridge above 0 (default 0.1).
        layer: name of the layer; ``None`` takes the first one with parameters, in the order in which the model's parts were assigned,
            input normalization passed over.

    Returns:
        The same model.

    Raises:
        TypeError: the layer is of another type; a layer after an embedding, say, is not a first layer of real-valued inputs.
        ValueError: no such layer, or ``lam`` isn't above 0. Nothing has been changed then.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> [type(part).__name__ for part in convert_tract(net)]
        ['Flatten', 'TrActLinear', 'ReLU', 'Linear']
    """
    _check(lam)
    name, first = _first_layer(model) if layer is None else (layer, dict(model.named_modules()).get(layer))
    if first is None:
        wanted = "layer with parameters" if layer is None else f"layer {layer!r}"
        raise ValueError(f"{type(model).__name__} has no {wanted}")
    if type(first) not in _LAYERS:
        raise TypeError(
            f"can't convert {name or 'the model'}: {type(first).__name__} is neither nn.Linear nor nn.Conv2d "
            "(say which layer is meant by layer=)"
        )
    first.__class__ = _LAYERS[type(first)]
    first.lam = lam
    return model


def _first_layer(model: nn.Module) -> tuple[str, nn.Module | None]:
    """The first part with parameters and without parts of its own that isn't a normalization layer."""
    for name, module in model.named_modules():
        own = any(True for _ in module.parameters(recurse=False))
        if own and not isinstance(module, _NORMS) and not any(True for _ in module.children()):
            return name, module
    return "", None


def _check(lam: float) -> None:
    if not (lam > 0 and math.isfinite(lam)):
        raise ValueError(f"lam must be a number above 0, not {lam}")
