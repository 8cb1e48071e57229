"""Hessian-vector products over a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.autodiff.batches import batches
from thalweg.autodiff.eval_mode import eval_mode
from thalweg.autodiff.flat import FlatModel


class Hessian:
    r"""The Hessian of a model's mean loss, as a symmetric operator on flat vectors; the matrix is never formed.

    .. math:: H = \nabla_\theta^2\,\frac1n \sum_{i=1}^n \ell(f_\theta(x_i), y_i), \qquad \texttt{hessian(v)} = H v

    at the parameters the model has when the operator is made. **Loss convention: the mean over all n examples.**
    Batches are weighted by their size, so the result does not depend on how the data are cut. The model is evaluated in
    evaluation mode (no dropout, running statistics in batch normalization) and left as it was, gradients included.

    Args:
        model: any module of one input.
        loss_fn: ``loss_fn(outputs, targets)``, the mean over a batch, twice differentiable.
        data: a pair of tensors ``(X, y)``, a dataset, a DataLoader or a list of batches.
        batch_size: for tensors and datasets; see :func:`~thalweg.autodiff.batches`.
        params: names of the parameters; ``None`` takes all that require gradients.
        dtype: real type to compute in; ``None`` keeps the model's.

    Attributes:
        size: number of parameters P.
        flat: the :class:`~thalweg.autodiff.FlatModel` behind it.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> X, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> hessian = Hessian(net, lambda out, y: 0.5 * (out - y).square().mean(), (X, y))
        >>> hessian(torch.tensor([1.0, 1.0]))
        tensor([0.5000, 4.5000])
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        data: Any,
        *,
        batch_size: int | None = None,
        params: Iterable[str] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.flat = FlatModel(model, params=params, dtype=dtype)
        self.loss_fn = loss_fn
        self.batches = batches(data, batch_size)
        self.size = self.flat.size

    def __call__(self, vector: Tensor) -> Tensor:
        """H times a vector ``(P,)``, or times each row of ``(k, P)`` in one go.

        Raises:
            ValueError: the vector has the wrong length, the data are empty, or the result is not finite.
        """
        if vector.dim() not in (1, 2) or vector.shape[-1] != self.size:
            raise ValueError(f"the Hessian takes vectors of {self.size} entries, not {tuple(vector.shape)}")
        total, count = torch.zeros_like(vector), 0
        # The fused attention kernels have no second derivative.
        with eval_mode(self.flat.model), sdpa_kernel(SDPBackend.MATH):
            for inputs, targets in self.batches:
                total += len(inputs) * self._batch_product(inputs, targets, vector)
                count += len(inputs)
        if count == 0:
            raise ValueError("the data are empty")
        if not bool(total.isfinite().all()):
            raise ValueError("the Hessian is not finite here: the loss or a parameter is infinite or NaN")
        return total / count

    def _batch_product(self, inputs: Tensor, targets: Tensor, vector: Tensor) -> Tensor:
        device = self.flat.vector.device
        inputs, targets = inputs.to(device), self.flat.cast(targets.to(device))

        theta = self.flat.vector.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.loss_fn(self.flat(theta, inputs), targets)
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        if not gradient.requires_grad:  # a loss that is linear in the parameters
            return torch.zeros_like(vector)
        return torch.autograd.grad(gradient, theta, vector, is_grads_batched=vector.dim() == 2, materialize_grads=True)[
            0
        ]
