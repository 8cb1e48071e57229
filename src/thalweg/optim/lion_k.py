"""Lion-K: the gradient of any convex function of Lion's interpolated momentum (arXiv:2310.05898)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from thalweg.linalg.convex_kernels import KERNELS, check_parameter, named_kernel, unit
from thalweg.optim.engine import Chain, ChainedOptimizer, Transform, elementwise, layerwise, matrix
from thalweg.optim.engine.hyperparameters import plain
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.lion import interpolated_momentum
from thalweg.optim.weight_decay import implicit_decay
from thalweg.registry import method


def _norm_squared(update: Tensor, param: Tensor) -> tuple[Tensor]:
    return ((update * update).sum(),)


def _check_element(kernel: str, p: float, threshold: float) -> None:
    parameter = _of_kind(kernel, "element").parameter
    if parameter is not None:
        check_parameter(parameter, {"p": p, "threshold": threshold}[parameter])


def _check_tensor(kernel: str) -> None:
    _of_kind(kernel, "tensor")


def _check_matrix(kernel: str, k: int) -> None:
    parameter = _of_kind(kernel, "matrix").parameter
    if parameter is not None:
        check_parameter(parameter, k)


@elementwise(check=_check_element)
def kernel_gradient(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    kernel: str = "l1",
    p: float = 1.5,
    threshold: float = 1e-3,
) -> Tensor:
    r"""The gradient of an elementwise convex kernel at the update: ``u <- grad K(u)``; see :data:`thalweg.linalg.KERNELS`.

    Example:
        >>> from thalweg.optim import Chained, kernel_gradient
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], kernel_gradient(kernel="huber", threshold=1.0), lr=1.0).step()
        >>> p.data
        tensor([2.5000, 5.0000])
    """
    chosen = _of_kind(kernel, "element")
    parameters = {"p": p, "threshold": threshold}
    return chosen.grad(update) if chosen.parameter is None else chosen.grad(update, parameters[chosen.parameter])


@layerwise(sums=_norm_squared, check=_check_tensor)
def tensor_kernel_gradient(
    update: Tensor, param: Tensor, state: dict[str, Tensor], sums: tuple[Tensor], *, kernel: str = "l2"
) -> Tensor:
    r"""The gradient of the norm of the whole tensor: ``u <- u / |u|``, 0 at 0.

    Example:
        >>> from thalweg.optim import Chained, tensor_kernel_gradient
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([3.0, -4.0])
        >>> Chained([p], tensor_kernel_gradient(kernel="l2"), lr=1.0).step()
        >>> p.data
        tensor([2.4000, 4.8000])
    """
    return unit(update, sums[0].sqrt())


@matrix(vectors=True, check=_check_matrix)
def matrix_kernel_gradient(stack: Tensor, *, kernel: str = "nuclear", k: int = 1) -> Tensor:
    r"""The gradient of a convex kernel of each matrix; vectors are matrices of one row.

    Example:
        >>> from thalweg.optim import Chained, matrix_kernel_gradient
        >>> p = nn.Parameter(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
        >>> p.grad = torch.tensor([[3.0, -4.0], [0.0, 2.0]])
        >>> Chained([p], matrix_kernel_gradient(kernel="group_l2"), lr=1.0).step()
        >>> p.data
        tensor([[0.4000, 1.8000],
                [1.0000, 0.0000]])
    """
    chosen = _of_kind(kernel, "matrix")
    stack = stack.to(torch.promote_types(stack.dtype, torch.float32))  # decompositions know no bfloat16
    return chosen.grad(stack) if chosen.parameter is None else chosen.grad(stack, k)


def _of_kind(name: str, per: str) -> Any:
    kernel = named_kernel(name)
    if kernel.per != per:
        choices = ", ".join(sorted(n for n, other in KERNELS.items() if other.per == per))
        raise ValueError(f"kernel {name!r} works per {kernel.per}; this transform takes kernels per {per}: {choices}")
    return kernel


@method(
    "lion_k",
    search={
        "lr": ("log", 1e-5, 1e-2),
        "weight_decay": ("log", 1e-2, 10.0),
        "kernel": ("choice", "l1", "huber", "smooth"),
        "threshold": ("log", 1e-6, 1e-1),
    },
    use="To study other kernels than the sign (soft thresholds, norms); to train, take Lion.",
)
class LionK(ChainedOptimizer):
    r"""Lion with any convex kernel in the place of its sign (arXiv:2310.05898).

    .. math::
        c = \beta_1 m + (1-\beta_1) g, \quad p \leftarrow (1 - \eta\lambda) p - \eta \nabla K(c), \quad
        m \leftarrow \beta_2 m + (1-\beta_2) g

    With weight decay :math:`\lambda > 0` this minimizes :math:`f(p) + \frac1\lambda K^*(\lambda p)`, with the conjugate
    :math:`K^*`. The kernel "l1" is Lion, bit for bit; its conjugate is a box, so Lion minimizes f subject to
    :math:`|p_i| \le 1/\lambda`. Weights outside approach the constraint set by the factor :math:`1-\eta\lambda` a step, whatever the
    gradients are. Without decay there is no constraint. :mod:`thalweg.probe.lion_k` measures both.

    ============ =========================================== =====================================================
    ``kernel``   step                                        with ``weight_decay`` solves f plus
    ============ =========================================== =====================================================
    "l1"         sign(c)                                     box :math:`|p_i| \le 1/\lambda`
    "l2sq"       c                                           :math:`\frac\lambda2\|p\|^2`
    "l2"         c / norm of the tensor                      ball :math:`\|p\| \le 1/\lambda` of each tensor
    "lp"         sign(c) :math:`|c|^{p-1}`                   a soft power penalty (p = 1 is "l1", 2 is "l2sq")
    "hinge"      sign(c) where \|c\| > threshold             the box, and threshold times :math:`\sum|p_i|`: sparse weights
    "huber"      clip(c / threshold, -1, 1)                  the box, and a ridge
    "smooth"     :math:`c / \sqrt{c^2 + threshold^2}`        strictly inside the box
    "logcosh"    tanh(c)                                     strictly inside the box, an entropy barrier
    "topk"       sign(c) at the k largest of each tensor     the box, and :math:`\sum|p_i| \le k/\lambda`
    "group_l2"   each row of c over its norm                 a ball for each row
    "nuclear"    :math:`UV^\top` of each matrix              largest singular value at most :math:`1/\lambda` (Muon's kind)
    ============ =========================================== =====================================================

    Args:
        params: parameters, named parameters, parameter groups, or a module (biases and norm gains then aren't decayed). Groups may
            have kernels of their own: ``{"params": biases, "kernel": "l1"}``.
        lr: learning rate (default 1e-4); its fair size depends on the kernel, see the step.
        betas: weight of the past in the step and in the buffer (default (0.9, 0.99)).
        weight_decay: decoupled decay rate :math:`\lambda` (default 0).
        kernel: a name of the table (default "l1"), or one of your own: :func:`thalweg.linalg.register_kernel`.
        p: power of "lp", at least 1 (default 1.5).
        threshold: of "hinge", "huber" and "smooth", in units of the gradient (default 1e-3).
        k: entries of each tensor that "topk" moves (default 1).
        implicit_decay: :math:`p \leftarrow (p - \eta\nabla K(c)) / (1 + \eta\lambda)`, as the theory has it, instead (default False).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a parameter, ``exp_avg``; no step count. Elementwise kernels run on shards as they are, "l2" adds up one number
    a tensor, "topk", "group_l2" and "nuclear" gather each tensor once.

    Raises:
        ValueError: an unknown kernel; a parameter of it out of range; k larger than a tensor; "nuclear" for vectors;
            ``lr * weight_decay >= 1`` with explicit decay.

    Example:
        >>> import torch
        >>> from thalweg.optim import LionK
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = LionK(model, lr=1e-3, weight_decay=1.0, kernel="smooth", threshold=1e-2)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        kernel: str = "l1",
        *,
        p: float = 1.5,
        threshold: float = 1e-3,
        k: int = 1,
        implicit_decay: bool = False,
        **options: Any,
    ) -> None:
        per = named_kernel(kernel).per
        own = {"kernel": kernel}
        gradients: dict[str, Transform] = {
            "element": kernel_gradient(p=p, threshold=threshold, **(own if per == "element" else {})),
            "tensor": tensor_kernel_gradient(**(own if per == "tensor" else {})),
            "matrix": matrix_kernel_gradient(k=k, **(own if per == "matrix" else {})),
        }
        self.implicit_decay = implicit_decay
        rules = {name: self._rule(betas, gradients[name], weight_decay) for name in dict.fromkeys((per, *gradients))}
        super().__init__(params, rules, lr=lr, weight_decay=0.0 if implicit_decay else weight_decay, **options)

    def _rule(self, betas: tuple[float, float], gradient: Transform, weight_decay: float) -> Chain:
        chain = interpolated_momentum(betas=betas) >> gradient
        return chain >> implicit_decay(weight_decay=weight_decay) if self.implicit_decay else chain

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its rule follows from its ``kernel``."""
        if isinstance(param_group, dict):
            first = next(iter(self.rules.values()))
            kernel = param_group.get("kernel", first.hypers["kernel"])
            param_group = {**param_group, "kernel": kernel, "rule": named_kernel(kernel).per}
        super().add_param_group(param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        kernel, decay = group["kernel"], float(group["weight_decay"]) * float(group["lr"])
        if not self.implicit_decay and decay >= 1:
            raise ValueError(
                f"lr * weight_decay is {decay:g}: it must be below 1, or the weights jump over 0 (or set implicit_decay=True)"
            )
        parameter = named_kernel(kernel).parameter
        if parameter is not None:
            check_parameter(parameter, plain(group[parameter]))
        for tensor in group["params"]:
            if kernel == "nuclear" and tensor.ndim < 2:
                raise ValueError(
                    f"kernel 'nuclear' needs matrices, not a parameter of shape {tuple(tensor.shape)}: "
                    "put it into a group with another kernel, as in {'params': biases, 'kernel': 'l1'}"
                )
            numbers = math.prod(tensor.shape[-2:] if group.get("batched") else tensor.shape)
            if parameter == "k" and 0 < numbers < group["k"]:
                raise ValueError(
                    f"Invalid k: {group['k']} (a parameter of shape {tuple(tensor.shape)} has fewer numbers)"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "implicit_decay": self.implicit_decay}
