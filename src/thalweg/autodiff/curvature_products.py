"""Products with the curvature of one batch's loss: Hessian, Gauss-Newton matrix, empirical Fisher matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.autodiff.closure import Closure

Curvature = Literal["hessian", "gauss_newton", "fisher"]
CURVATURES = ("hessian", "gauss_newton", "fisher")


def curvature_product(closure: Closure, params: Sequence[Tensor], curvature: Curvature) -> Callable[[Tensor], Tensor]:
    r"""The curvature of a batch's mean loss as a function ``v -> C v`` of flat vectors; no matrix is formed.

    With outputs :math:`z_i`, Jacobians :math:`J_i` by the parameters, and n examples along the outputs' first dimension:

    .. math::
        \text{hessian: } \nabla^2 L, \qquad \text{gauss\_newton: } J^\top (\nabla_z^2 L) J, \qquad
        \text{fisher: } \frac1n \sum_i g_i g_i^\top,\quad g_i = n\, J_i^\top \nabla_{z_i} L

    The second is the Hessian without the model's own curvature, positive semidefinite where the loss is convex in the outputs; the
    third takes the batch's own targets (the *empirical* Fisher matrix), and is positive semidefinite always. For it the examples
    mustn't touch each other, as batch normalization makes them do. One forward pass now, then each product costs about two gradients;
    the graph lives as long as the function.

    Args:
        closure: model, loss and batch on one process; the loss is the mean over examples.
        params: real tensors, each flattened in this order.
        curvature: which matrix.

    Raises:
        ValueError: an unknown name, or a complex parameter.

    Example:
        >>> from thalweg.autodiff import Closure
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> closure = Closure(net, lambda z, y: 0.5 * (z - y).square().mean(), torch.eye(2), torch.zeros(2, 1))
        >>> curvature_product(closure, [net.weight], "gauss_newton")(torch.tensor([1.0, 4.0]))
        tensor([0.5000, 2.0000])
    """
    if curvature not in CURVATURES:
        raise ValueError(f"unknown curvature {curvature!r} (choose from {', '.join(CURVATURES)})")
    params = list(params)
    if any(p.is_complex() for p in params):
        raise ValueError("curvature products are for real parameters")
    # The fused attention kernels have no second derivative.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = closure.outputs()
        if curvature == "hessian":
            return _derivative(closure.loss(outputs), params, params)
        leaf = outputs.detach().requires_grad_()
        loss = closure.loss(leaf)
        if curvature == "gauss_newton":
            inner = _derivative(loss, [leaf], [leaf])
        else:
            (slope,) = torch.autograd.grad(loss, leaf)
            rows = slope.detach().flatten(1) if slope.ndim > 1 else slope.detach()[:, None]

            def inner(v: Tensor) -> Tensor:
                own = v.view_as(rows)
                return (len(rows) * (rows * own).sum(1, keepdim=True) * rows).reshape(-1)

        return _sandwich(outputs, params, inner)


def _derivative(loss: Tensor, params: Sequence[Tensor], by: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """The Hessian's product, by differentiating the gradient along a vector."""
    gradient = _flat(torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True))

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a loss that is linear
            return torch.zeros_like(vector)
        found = torch.autograd.grad(gradient, by, vector, retain_graph=True, materialize_grads=True)
        return _flat(found).detach()

    return product


def _sandwich(
    outputs: Tensor, params: Sequence[Tensor], inner: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """``v -> J^T inner(J v)``, J the outputs' Jacobian; ``J v`` by differentiating ``u -> J^T u``, which is linear."""
    dummy = torch.zeros_like(outputs, requires_grad=True)
    back = torch.autograd.grad(outputs, params, dummy, create_graph=True, materialize_grads=True)
    transposed = _flat(back)

    def product(vector: Tensor) -> Tensor:
        (along,) = torch.autograd.grad(transposed, dummy, vector, retain_graph=True)
        weighted = inner(along.detach().reshape(-1)).view_as(outputs)
        found = torch.autograd.grad(outputs, params, weighted, retain_graph=True, materialize_grads=True)
        return _flat(found).detach()

    return product


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])
