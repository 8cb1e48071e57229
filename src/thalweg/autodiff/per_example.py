"""The gradient of every example's own loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.autodiff.flat import FlatModel

LossFn = Callable[[Tensor, Tensor], Tensor]


def per_example_gradients(
    model: nn.Module | FlatModel,
    loss_fn: LossFn,
    inputs: Tensor,
    targets: Tensor,
    *,
    params: Iterable[str] | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Row i is :math:`\nabla_\theta\,\ell(f_\theta(x_i), y_i)`.

    The mean of the rows is the gradient of the mean loss. The model's own ``.grad`` is not touched. Layers that mix
    examples (batch normalization in training mode) have no per-example gradient and raise: put the model in evaluation
    mode.

    Args:
        model: any module of one input, or a :class:`~thalweg.autodiff.FlatModel`.
        loss_fn: ``loss_fn(outputs, targets)``, the mean over a batch; it is called on batches of one.
        inputs: ``(N, ...)``.
        targets: ``(N, ...)``.
        params: names of the parameters to differentiate; ``None`` takes all that require gradients.
        chunk_size: examples at a time; memory goes as ``chunk_size * P``, besides the result.

    Returns:
        ``(N, P)``, columns in the order of ``model.named_parameters()``.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> per_example_gradients(net, lambda out, y: out.mean(), x, torch.zeros(2))
        tensor([[1., 2.],
                [3., 4.]])
    """
    flat = _flat(model, params)
    rows = vmap(_gradient(flat, loss_fn), in_dims=(None, 0, 0), chunk_size=chunk_size)
    return rows(flat.vector, inputs, targets)


def per_example_gradient_norms(
    model: nn.Module | FlatModel,
    loss_fn: LossFn,
    inputs: Tensor,
    targets: Tensor,
    *,
    params: Iterable[str] | None = None,
    chunk_size: int | None = 64,
) -> Tensor:
    """Euclidean norms ``(N,)`` of the rows of :func:`per_example_gradients`, without ever holding all rows.

    Example:
        >>> import torch
        >>> net = nn.Linear(2, 1, bias=False)
        >>> per_example_gradient_norms(net, lambda out, y: out.mean(), torch.tensor([[3.0, 4.0]]), torch.zeros(1))
        tensor([5.])
    """
    flat = _flat(model, params)
    gradient = _gradient(flat, loss_fn)

    def norm(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return gradient(vector, x, y).norm()

    return vmap(norm, in_dims=(None, 0, 0), chunk_size=chunk_size)(flat.vector, inputs, targets)


def _flat(model: nn.Module | FlatModel, params: Iterable[str] | None) -> FlatModel:
    if isinstance(model, FlatModel):
        if params is not None:
            raise ValueError("params were chosen when the FlatModel was made")
        return model
    return FlatModel(model, params=params)


def _gradient(flat: FlatModel, loss_fn: LossFn) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def loss(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels would run example by example
            return loss_fn(flat(vector, x.unsqueeze(0)), y.unsqueeze(0))

    return grad(loss)
