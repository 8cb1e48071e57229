"""What Lion-K minimizes, seen from outside: its Lyapunov function, its optimality residual, its constraint (arXiv:2310.05898).

Signs follow the optimizers' state: ``exp_avg`` is a running mean of gradients. The paper's momentum is its negative.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.linalg.convex_kernels import ConvexKernel, as_matrices, convex_kernel

Kernel = str | ConvexKernel


def lyapunov(
    param: Tensor,
    exp_avg: Tensor,
    loss: float | Tensor,
    weight_decay: float,
    kernel: Kernel = "l1",
    *,
    alpha: float = 1.0,
    gamma: float = 1.0,
    eps: float = 0.0,
) -> float:
    r"""The function that falls along Lion-K's continuous path.

    .. math::
        H(x, m) = \alpha f(x) + \frac\gamma\lambda K^*(\lambda x)
            + \frac{1-\epsilon\gamma}{1+\epsilon\lambda} \left[ K^*(\lambda x) + K(m) - \lambda \langle m, x\rangle \right]

    with m = -``exp_avg``. Along :math:`\dot m = -\alpha\nabla f - \gamma m`,
    :math:`\dot x = \nabla K(m - \epsilon(\alpha\nabla f + \gamma m)) - \lambda x` it never rises. The bracket is never negative,
    so limit points are stationary for :math:`\alpha f + \frac\gamma\lambda K^*(\lambda x)`. With a finite learning rate and a
    kernel that has kinks, it rises now and then by the order of the learning rate.

    Args:
        param: x, any shape.
        exp_avg: as ``optimizer.state[p]["exp_avg"]``.
        loss: f(x).
        weight_decay: :math:`\lambda > 0`.
        kernel: name of a kernel without parameter, or :func:`thalweg.linalg.convex_kernel`.
        alpha, gamma, eps: constants of the path, with :math:`0 \le \epsilon\gamma \le 1`. A step of size h follows it with
            betas :math:`(1-\epsilon\gamma, 1-h\gamma)` and alpha = gamma.

    Returns:
        H, infinite while x lies outside the constraint set.

    Raises:
        ValueError: ``weight_decay <= 0``, or constants out of range.

    Example:
        >>> x, mean = torch.tensor([0.5]), torch.tensor([-0.25])
        >>> lyapunov(x, mean, loss=1.0, weight_decay=1.0)
        1.125
    """
    _check_decay(weight_decay)
    if alpha <= 0 or gamma <= 0 or not 0 <= eps * gamma <= 1:
        raise ValueError(f"alpha and gamma must be positive and eps * gamma in [0, 1], not {alpha}, {gamma}, {eps}")
    kernel = _kernel(kernel)
    x, momentum = as_matrices(param.detach()), -as_matrices(exp_avg.detach())
    conjugate = kernel.conjugate(weight_decay * x)
    gap = conjugate + kernel.value(momentum) - weight_decay * (momentum * x).sum()
    weight = (1 - eps * gamma) / (1 + eps * weight_decay)
    return float(alpha * float(loss) + gamma / weight_decay * conjugate + weight * gap)


def kkt_residual(
    params: Iterable[Tensor],
    grads: Iterable[Tensor],
    weight_decay: float,
    kernel: Kernel = "l1",
    *,
    tol: float = 1e-3,
) -> Tensor:
    r"""How far parameters are from optimal for :math:`f + \frac1\lambda K^*(\lambda x)`; 0 exactly at its stationary points.

    .. math:: r = \frac1d \left[ K(-g) + K^*(\lambda x) + \lambda\langle g, x\rangle \right] \ge 0

    For Lion (kernel "l1") that is the mean of :math:`|g_i| + \lambda g_i x_i`: each gradient is 0, or its weight lies on the side of
    the box that the gradient pushes it to. The unit is that of K(gradient), so compare it with the residual at the start.

    Args:
        params: parameters; d is their number of elements.
        grads: full-batch gradients at these parameters.
        weight_decay: :math:`\lambda > 0`.
        kernel: as for :func:`lyapunov`.
        tol: the constraint set is reached in the limit only: tensors outside by at most this share are judged where they meet it.

    Returns:
        0-d tensor; infinite if a parameter lies further outside.

    Raises:
        ValueError: ``weight_decay <= 0``; shapes that don't fit.

    Example:
        >>> kkt_residual([torch.tensor([0.5, 0.1])], [torch.tensor([-3.0, 0.0])], weight_decay=2.0)
        tensor(0.)
    """
    _check_decay(weight_decay)
    kernel = _kernel(kernel)
    total, count = torch.zeros(()), 0
    for param, grad in zip(params, grads, strict=True):
        if param.shape != grad.shape:
            raise ValueError(f"a parameter of shape {tuple(param.shape)} has a gradient of shape {tuple(grad.shape)}")
        y, g = as_matrices(weight_decay * param.detach()), as_matrices(grad.detach())
        excess = kernel.gauge(y)
        y = torch.where((excess > 1) & (excess <= 1 + tol), y / excess, y)
        total = total.to(y) + kernel.gap(-g, y)
        count += param.numel()
    return total / max(count, 1)


def constraint_violation(params: Iterable[Tensor], weight_decay: float, kernel: Kernel = "l1") -> float:
    r"""How far the worst parameter tensor lies outside the set that weight decay draws it into; 0 inside.

    For Lion (kernel "l1"): :math:`\max(0, \max_i |x_i| - 1/\lambda)`. For any kernel: the largest
    :math:`(\text{gauge}(\lambda x) - 1)/\lambda`. Under Lion-K it shrinks by :math:`1 - \eta\lambda` a step, whatever the
    gradients are.

    Args:
        params: parameters.
        weight_decay: :math:`\lambda > 0`.
        kernel: as for :func:`lyapunov`.

    Raises:
        ValueError: ``weight_decay <= 0``.

    Example:
        >>> constraint_violation([torch.tensor([0.2, -0.75])], weight_decay=2.0)
        0.25
    """
    _check_decay(weight_decay)
    kernel = _kernel(kernel)
    gauges = [kernel.gauge(as_matrices(weight_decay * p.detach())).item() for p in params]
    return max([0.0, *((gauge - 1) / weight_decay for gauge in gauges)])


def _kernel(kernel: Kernel) -> ConvexKernel:
    return convex_kernel(kernel) if isinstance(kernel, str) else kernel


def _check_decay(weight_decay: float) -> None:
    if weight_decay <= 0:
        raise ValueError(f"weight_decay must be positive, not {weight_decay}: without decay there is no constraint")
