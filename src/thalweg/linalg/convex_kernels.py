"""Convex functions with their gradients and conjugates: what turns a momentum into a step, and what that step then solves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.linalg.polar import polar

Function = Callable[..., Tensor]


def _zero(y: Tensor, *_: Any) -> Tensor:
    return y.new_zeros(())


@dataclass(frozen=True)
class ConvexKernel:
    r"""A convex function :math:`K` with :math:`K(0) \le K(z)`, and all that is known of it in closed form.

    .. math::
        K^*(y) = \sup_z \langle y, z\rangle - K(z)
        = \begin{cases} \text{penalty}(y) & \text{gauge}(y) \le 1 \\ \infty & \text{else} \end{cases}

    Each function takes a tensor, and ``parameter``'s value after it if there is one.

    Args:
        value: :math:`K`, a 0-d tensor.
        grad: a subgradient of :math:`K`, shaped like its argument, 0 at 0.
        penalty: :math:`K^*` where it is finite (default 0).
        gauge: smallest factor :math:`s \ge 0` with :math:`y \in s\,C`, for the set :math:`C` on which :math:`K^*` is finite (default:
            0, no constraint). Convex, and at most 1 at every subgradient.
        per: "element": the sum of a function of each number; "tensor": depends on all numbers; "matrix": works on stacks
            ``(..., m, n)``, each matrix by itself, values summed.
        parameter: name of the parameter, "p", "threshold" or "k"; ``None``: there is none.
    """

    value: Function
    grad: Function
    penalty: Function = _zero
    gauge: Function = _zero
    per: Literal["element", "tensor", "matrix"] = "element"
    parameter: str | None = None

    def conjugate(self, y: Tensor, *parameter: float) -> Tensor:
        """The conjugate at ``y``; infinite outside its domain, which is judged up to rounding."""
        slack = 1 + 1000 * torch.finfo(y.dtype).eps
        infinite = y.new_full((), math.inf)
        return torch.where(self.gauge(y, *parameter) <= slack, self.penalty(y, *parameter), infinite)

    def gap(self, z: Tensor, y: Tensor, *parameter: float) -> Tensor:
        r"""The Fenchel-Young gap :math:`K(z) + K^*(y) - \langle z, y\rangle \ge 0`: 0 where ``y`` is a subgradient at ``z``."""
        return self.value(z, *parameter) + self.conjugate(y, *parameter) - (z * y).sum()

    def at(self, parameter: float) -> ConvexKernel:
        """The kernel with its parameter fixed: its functions take a tensor alone."""

        def fix(function: Function) -> Function:
            return lambda z: function(z, parameter)

        return ConvexKernel(fix(self.value), fix(self.grad), fix(self.penalty), fix(self.gauge), self.per)


def convex_kernel(name: str, **parameters: float) -> ConvexKernel:
    """The kernel called ``name``, its parameter fixed.

    Args:
        name: see :data:`KERNELS`.
        parameters: the kernel's own by its name: ``p`` for "lp", ``threshold`` for "hinge", "huber" and "smooth", ``k`` for "topk".

    Raises:
        ValueError: an unknown name, a parameter missing, out of range, or of another kernel.

    Example:
        >>> import torch
        >>> huber = convex_kernel("huber", threshold=0.5)
        >>> huber.grad(torch.tensor([-3.0, 0.25]))
        tensor([-1.0000,  0.5000])
        >>> huber.conjugate(torch.tensor([1.0, 0.5])), huber.conjugate(torch.tensor([1.5, 0.0]))
        (tensor(0.3125), tensor(inf))
    """
    kernel = named_kernel(name)
    wanted = {kernel.parameter} - {None}
    if set(parameters) != wanted:
        takes = f"the parameter {kernel.parameter!r}" if wanted else "no parameter"
        raise ValueError(f"kernel {name!r} takes {takes}, not {', '.join(sorted(parameters)) or 'none'}")
    if kernel.parameter is None:
        return kernel
    check_parameter(kernel.parameter, parameters[kernel.parameter])
    return kernel.at(parameters[kernel.parameter])


def named_kernel(name: str) -> ConvexKernel:
    """The kernel called ``name``, its parameter left open."""
    if name not in _KERNELS:
        raise ValueError(f"unknown kernel {name!r} (choose from {', '.join(sorted(_KERNELS))})")
    return _KERNELS[name]


def register_kernel(name: str, kernel: ConvexKernel) -> None:
    """Make a kernel of your own known by name, so that parameter groups and checkpoints can hold it as a plain string.

    Raises:
        ValueError: the name is taken by another kernel; ``per="tensor"``, or a parameter that isn't handed on.

    Example:
        >>> import torch
        >>> from thalweg.linalg import ConvexKernel, register_kernel
        >>> register_kernel("squareroot", ConvexKernel(
        ...     value=lambda z: z.abs().pow(1.5).sum() / 1.5, grad=lambda z: z.sign() * z.abs().sqrt()))
    """
    if _KERNELS.get(name, kernel) != kernel:
        raise ValueError(f"kernel {name!r} exists already: choose another name")
    parameters = {"element": ("p", "threshold"), "matrix": ("k",)}.get(kernel.per)
    if parameters is None:
        raise ValueError(f"kernel {name!r}: per must be 'element' or 'matrix', not {kernel.per!r}")
    if kernel.parameter not in (None, *parameters):
        raise ValueError(
            f"kernel {name!r}: parameter must be {' or '.join(map(repr, parameters))}, not {kernel.parameter!r}"
        )
    _KERNELS[name] = kernel


def check_parameter(name: str, value: float) -> None:
    """Raise a :class:`ValueError` if a kernel's parameter is out of its range."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    good, words = {
        "p": (value >= 1 and math.isfinite(value), "a number >= 1"),
        "threshold": (value > 0 and math.isfinite(value), "a number > 0"),
        "k": (whole and value >= 1, "a whole number >= 1"),
    }[name]
    if not good:
        raise ValueError(f"Invalid {name}: {value!r} (must be {words})")


def as_matrices(z: Tensor) -> Tensor:
    """``z`` as a matrix: vectors and numbers are one row, further dimensions are joined into (first, rest)."""
    return z.reshape(1, -1) if z.ndim < 2 else z.flatten(1)


def _largest(y: Tensor, *_: Any) -> Tensor:
    return y.abs().max() if y.numel() else y.new_zeros(())


def _loud_sign(z: Tensor) -> Tensor:
    return torch.sign(z) + 0 * z  # NaN for NaN and infinities: a plain sign would hide them


def _lp_penalty(y: Tensor, p: float) -> Tensor:
    q = p / (p - 1) if p > 1 else 0.0
    return (y.abs() ** q).sum() / q if q else _zero(y)


def _huber_value(z: Tensor, t: float) -> Tensor:
    size = z.abs()
    return torch.where(size > t, size - t / 2, z * z / (2 * t)).sum()


def _smooth_grad(z: Tensor, t: float) -> Tensor:
    ratio = (z / t).clamp(-1e18, 1e18)  # the square of a larger one may overflow; the result is 1 long before
    return ratio / (1 + ratio * ratio).sqrt() + 0 * z  # with torch.hypot a step of Lion-K takes twice as long


def _logcosh_value(z: Tensor) -> Tensor:
    size = z.abs()
    return (size + torch.nn.functional.softplus(-2 * size) - math.log(2)).sum()


def _entropy(y: Tensor) -> Tensor:
    y = y.clamp(-1, 1)
    return (torch.xlogy(1 + y, 1 + y) + torch.xlogy(1 - y, 1 - y)).sum() / 2


def _unit(z: Tensor) -> Tensor:
    return unit(z, z.norm())


def unit(z: Tensor, norm: Tensor) -> Tensor:
    """``z / norm``, and 0 where the norm is 0."""
    return torch.where(norm == 0, 0 * z, z / norm)


def _flat(z: Tensor) -> Tensor:
    return z.flatten(-2) if z.ndim > 1 else z


def _topk_value(z: Tensor, k: int) -> Tensor:
    return _flat(z).abs().topk(k, dim=-1).values.sum()


def _topk_grad(z: Tensor, k: int) -> Tensor:
    flat = _flat(z)
    kept = flat.abs().sort(dim=-1, descending=True, stable=True).indices[..., :k]  # of equals, the first
    chosen = torch.zeros_like(flat).scatter_(-1, kept, 1.0)
    return (_loud_sign(flat) * chosen).view(z.shape)


def _topk_gauge(y: Tensor, k: int) -> Tensor:
    return torch.maximum(_largest(y), _largest(_flat(y).abs().sum(-1) / k))


def _row_norms(z: Tensor) -> Tensor:
    return torch.linalg.vector_norm(z, dim=-1, keepdim=True)


_KERNELS: dict[str, ConvexKernel] = {
    "l1": ConvexKernel(lambda z: z.abs().sum(), _loud_sign, gauge=_largest),
    "l2sq": ConvexKernel(lambda z: (z * z).sum() / 2, lambda z: z, lambda y: (y * y).sum() / 2),
    "l2": ConvexKernel(lambda z: z.norm(), _unit, gauge=lambda y: y.norm(), per="tensor"),
    "lp": ConvexKernel(
        lambda z, p: (z.abs() ** p).sum() / p,
        lambda z, p: _loud_sign(z) * z.abs() ** (p - 1),
        _lp_penalty,
        lambda y, p: _largest(y) if p == 1 else _zero(y),
        parameter="p",
    ),
    "hinge": ConvexKernel(
        lambda z, t: (z.abs() - t).clamp(min=0).sum(),
        lambda z, t: _loud_sign(z) * (z.abs() > t),
        lambda y, t: t * y.abs().sum(),
        _largest,
        parameter="threshold",
    ),
    "huber": ConvexKernel(
        _huber_value,
        lambda z, t: (z / t).clamp(-1, 1) + 0 * z,
        lambda y, t: t / 2 * (y * y).sum(),
        _largest,
        parameter="threshold",
    ),
    "smooth": ConvexKernel(
        lambda z, t: torch.hypot(z, torch.full_like(z, t)).sum(),
        _smooth_grad,
        lambda y, t: -t * (1 - y * y).clamp(min=0).sqrt().sum(),
        _largest,
        parameter="threshold",
    ),
    "logcosh": ConvexKernel(_logcosh_value, lambda z: torch.tanh(z) + 0 * z, _entropy, _largest),
    "topk": ConvexKernel(_topk_value, _topk_grad, gauge=_topk_gauge, per="matrix", parameter="k"),
    "group_l2": ConvexKernel(
        lambda z: _row_norms(z).sum(),
        lambda z: unit(z, _row_norms(z)),
        gauge=lambda y: _largest(_row_norms(y)),
        per="matrix",
    ),
    "nuclear": ConvexKernel(
        lambda z: torch.linalg.svdvals(z).sum(), polar, gauge=lambda y: _largest(torch.linalg.svdvals(y)), per="matrix"
    ),
}

KERNELS: Mapping[str, ConvexKernel] = _KERNELS
r"""Kernels by name: :math:`K`, its gradient, and the constraint set :math:`C` of the conjugate with the penalty inside.

======== ===================================== ============================== ==================================================
name     :math:`K(z)`                          gradient                       penalty; C
======== ===================================== ============================== ==================================================
l1       :math:`\sum|z|`                       sign                           0; box :math:`\max|y| \le 1`
l2sq     :math:`\|z\|^2/2`                     z                              :math:`\|y\|^2/2`; none
l2       :math:`\|z\|` of the tensor           :math:`z/\|z\|`                0; ball
lp       :math:`\sum|z|^p/p`                   :math:`\pm|z|^{p-1}`           :math:`\sum|y|^q/q`, 1/p + 1/q = 1; none (p = 1: l1)
hinge    :math:`\sum\max(|z|-t, 0)`            sign where :math:`|z|>t`       :math:`t\sum|y|`; box
huber    :math:`|z|-t/2`, inside :math:`z^2/2t` clip(z/t, -1, 1)              :math:`t/2\,\|y\|^2`; box
smooth   :math:`\sum\sqrt{z^2+t^2}`            :math:`z/\sqrt{z^2+t^2}`       :math:`-t\sum\sqrt{1-y^2}`; box
logcosh  :math:`\sum\log\cosh z`               tanh                           log 2 less the entropy of (1+y)/2; box
topk     sum of the k largest :math:`|z|`      their signs, else 0            0; box and :math:`\sum|y| \le k`
group_l2 :math:`\sum_g\|z_g\|` over rows g     :math:`z_g/\|z_g\|`            0; each row in the ball
nuclear  sum of singular values                :math:`U V^\top`               0; largest singular value at most 1
======== ===================================== ============================== ==================================================

Gradients are 0 at 0; of equal entries topk takes the first; :math:`U V^\top` runs over the non-zero singular values.
"""
