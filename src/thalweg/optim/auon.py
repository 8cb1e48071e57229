"""AuON: momentum damped by the hyperbolic cosine of its entries, and its hybrid with Muon (arXiv:2509.24320)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from thalweg.linalg.polar import Coefficients
from thalweg.optim.engine import Chain, layerwise
from thalweg.optim.engine.once import once
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.matrix_optimizer import MatrixOptimizer
from thalweg.optim.momentum import momentum as momentum_of
from thalweg.optim.muon import MUON_SEARCH, orthogonalize
from thalweg.registry import method

FAR = 2.0**64
"""Squares of float32 numbers overflow from 1e19 on and vanish below 1e-19; after division or multiplication by this they don't."""
NEAR = 2.0**20
"""Beyond this, or below one over it, numbers count among the large or the small ones."""


def squares(update: Tensor, param: Tensor, *, experts: bool) -> tuple[Tensor, ...]:
    """Sums of squares, of all numbers as they are, of large ones scaled down and small ones scaled up; and how many there are.

    Numbers that need no scaling count as 0 there: squares of subnormal numbers would take ten times as long.
    """
    count = update.numel() // max(1, len(update)) if experts else update.numel()
    size, zero = update.abs(), torch.zeros_like(update)
    large = torch.where(size > NEAR, update / FAR, zero)
    small = torch.where(size < 1 / NEAR, update * FAR, zero)
    near, large, small = (_total(part.square(), experts) for part in (update, large, small))
    return near, large, small, torch.full_like(near, count)


def sinh_squares(
    update: Tensor, param: Tensor, totals: tuple[Tensor, ...], *, gamma: Any, eps: Any, experts: bool
) -> tuple[Tensor]:
    """Sum of sinh(z)^2, which is cosh(z)^2 - 1 without its rounding."""
    e = (update * _beside(gamma / _norm(totals, eps), update)).exp()
    return (_total((e - 1 / e).square() / 4, experts),)


def _norm(totals: tuple[Tensor, ...], eps: Any) -> Tensor:
    near, large, small = (total.sqrt() for total in totals[:3])
    norm = torch.where(near.isfinite(), torch.where(near > 1 / FAR**0.5, near, small / FAR), large * FAR)
    return norm.clamp(min=eps)


def _total(numbers: Tensor, experts: bool) -> Tensor:
    """The sum, or one for each entry of the first dimension."""
    if not experts:
        return numbers.sum()
    return numbers.flatten(1).sum(1) if numbers.ndim > 1 else numbers


@layerwise(sums=(squares, sinh_squares))
def cosh_damping(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    sums: tuple[Tensor, ...],
    *,
    rows: slice,
    gamma: float = 1.5,
    eps: float = 1e-7,
    normalize: bool = False,
    shape_factor: bool = False,
    experts: bool = False,
) -> Tensor:
    r"""Divide the update by one number, the root mean square of the hyperbolic cosine of its normalized entries (arXiv:2509.24320).

    .. math::
        u \leftarrow \frac{u}{r}, \qquad r = \sqrt{\tfrac1N \textstyle\sum_i \cosh(z_i)^2}, \qquad
        z = \gamma \frac{u}{\max(\|u\|_F, \epsilon)}

    With ``normalize`` the update is divided by :math:`\max(\|u\|_F, \epsilon)`, too, and with ``shape_factor`` multiplied by
    :math:`\sqrt{\max(1, m/n)}`, m being its first size and n the product of the others. With ``experts`` each entry of the first
    dimension is a tensor by itself.

    Example:
        >>> from thalweg.optim import Chained, cosh_damping
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([3.0, -4.0])
        >>> Chained([p], cosh_damping(normalize=True), lr=1.0).step()
        >>> p.data
        tensor([2.6325, 4.4899])
    """
    totals = tuple(total[rows] if experts else total for total in sums)
    count, sinh = totals[3:]
    factor = 1 / (1 + sinh / count).sqrt()
    if normalize:
        factor = factor / _norm(totals, eps)
    if shape_factor and update.ndim >= 2 + experts:
        columns = math.prod(update.shape[1 + experts :])
        factor = factor * (count / columns**2).clamp(min=1.0).sqrt()
    return update * _beside(factor, update)


def _beside(numbers: Tensor, update: Tensor) -> Tensor:
    """One number, or one for each entry of the first dimension, in a shape that multiplies with the update."""
    numbers = once(numbers.to(update.dtype))
    return numbers.view(-1, *[1] * (update.ndim - 1)) if numbers.ndim else numbers


def cosh_rms(x: Tensor, gamma: float = 1.5, eps: float = 1e-7) -> Tensor:
    r"""The number that AuON divides by: the root mean square of :math:`\cosh(\gamma x / \max(\|x\|, \epsilon))`.

    For N entries of similar size it is :math:`1 + \gamma^2/2N` to first order; a single nonzero one gives the most,
    :math:`\sqrt{1 + \sinh(\gamma)^2/N}`.

    Args:
        x: real, any shape.
        gamma, eps: as in the equation.

    Returns:
        Float64 tensor without dimensions, at least 1; NaN if ``x`` holds NaN or infinities.

    Example:
        >>> round(cosh_rms(torch.diag(torch.tensor([3.0, 4.0]))).item(), 4)
        1.3539
    """
    x = x.double()
    totals = squares(x, x, experts=False)
    (sinh,) = sinh_squares(x, x, totals, gamma=gamma, eps=eps, experts=False)
    return (1 + sinh / totals[3]).sqrt()


@method(
    "auon",
    search={
        "lr": ("log", 1e-3, 10.0),
        "rest_lr": ("log", 1e-4, 3e-2),
        "weight_decay": ("log", 1e-5, 1e-2),
        "normalize": ("choice", False, True),
    },
    use="To check whether Muon's matrix products pay: on layers of ordinary size this is momentum with scaled steps.",
)
class AuON(MatrixOptimizer):
    r"""Momentum over the root mean square of its hyperbolic cosine, without a matrix product (arXiv:2509.24320).

    .. math::
        M \leftarrow \mu M + (1-\mu) G, \quad U = (1-\mu) G + \mu M, \quad W \leftarrow (1-\eta\lambda) W - \eta \frac Ur, \quad
        r = \mathrm{rms}\cosh\!\Big(\frac{\gamma U}{\max(\|U\|_F, \epsilon)}\Big)

    That is the released code. The paper's first version, ``normalize=True``, goes by the normalized momentum instead, a step of
    Frobenius norm at most 1 before its factor: :math:`W \leftarrow (1-\eta\lambda)W - \eta\sqrt{\max(1,m/n)}\, \hat U/r`, with
    :math:`\hat U = U/\max(\|U\|_F, \epsilon)`.

    What to expect: the entries of z have :math:`\sum z_i^2 = \gamma^2`, so that r is about :math:`1 + \gamma^2/2N` for a matrix of N
    entries, 1.0003 at 64 x 64. On layers of ordinary size the released form is SGD with averaged Nesterov momentum, and the other one
    is gradient descent normalized by the Frobenius norm, to three digits and more. The learning rate of the released form scales with
    the loss; that of the other one doesn't. One number for the whole matrix changes neither its direction nor its condition number.

    Args:
        params: as for :class:`~thalweg.optim.Muon`; the rule is called "auon" in parameter groups, and takes parameters of any shape.
            Norms are those of whole tensors, or in groups with ``batched=True`` of each entry of the first dimension.
        lr: learning rate of the matrices (default 0.08; ``normalize=True`` may want 0.2).
        momentum: :math:`\mu` (default 0.95).
        weight_decay: decoupled decay of the matrices (default 0).
        gamma: :math:`\gamma`; None (default): 1.5, or 1 with ``normalize``. 0 makes r = 1.
        normalize: divide by the norm, as in the paper's first version (default False).
        nesterov: look one step ahead (default True).
        eps: lower bound of the norm (default 1e-7).
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (3e-4, (0.9, 0.95), 1e-10, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a matrix, ``momentum_buffer``; two for the rest. Sharded, it adds up one number a tensor, twice.

    Raises:
        ValueError: a setting out of range; ``split``, or ``batched=True`` for a parameter without three dimensions; a complex
            parameter.

    Example:
        >>> import torch
        >>> from thalweg.optim import AuON
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = AuON(model, lr=0.2, normalize=True, rest_lr=1e-3)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.08,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        gamma: float | None = None,
        normalize: bool = False,
        nesterov: bool = True,
        eps: float = 1e-7,
        rest_lr: float = 3e-4,
        rest_betas: tuple[float, float] = (0.9, 0.95),
        rest_eps: float = 1e-10,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        if gamma is None:
            gamma = 1.0 if normalize else 1.5
        damping = cosh_damping(gamma=gamma, eps=eps, normalize=normalize, shape_factor=normalize)
        super().__init__(
            params,
            "auon",
            momentum_of(momentum=momentum, nesterov=nesterov, ema=True) >> damping,
            lr=lr,
            weight_decay=weight_decay,
            rest_lr=rest_lr,
            rest_betas=rest_betas,
            rest_eps=rest_eps,
            rest_weight_decay=rest_weight_decay,
            **options,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; stacks of matrices are damped one by one."""
        super().add_param_group(_with_experts(param_group))
        group = self.param_groups[-1]
        if "experts" in group and group.get("split", 1) != 1:
            self.param_groups.pop()
            raise ValueError("AuON doesn't split matrices: give their parts as parameters of their own")


@method(
    "hybrid_auon",
    search=MUON_SEARCH,
    use="To study AuON: with five Newton-Schulz steps it is Muon without its factor of the shape.",
)
class HybridAuON(MatrixOptimizer):
    r"""Muon with fewer Newton-Schulz steps, its update then damped as by AuON (arXiv:2509.24320).

    .. math::
        O = \mathrm{NS}_k(U), \qquad W \leftarrow (1-\eta\lambda) W - \eta \frac Or, \qquad
        r = \mathrm{rms}\cosh\!\Big(\frac{\gamma O}{\|O\|_F}\Big)

    with Muon's momentum U. The number r exceeds 1 by about :math:`\gamma^2/2N` for a matrix of N entries: with ``ns_steps=5`` this is
    Muon without its factor of the shape, to three digits and more.

    Args:
        params: as for :class:`~thalweg.optim.Muon`; the rule for matrices is called "hybrid_auon" in parameter groups. With
            ``batched=True`` r belongs to each expert; the parts of a matrix with ``split`` share one.
        lr: learning rate of the matrices (default 0.02).
        momentum: of the running mean (default 0.95).
        weight_decay: decoupled decay of the matrices (default 0).
        gamma: :math:`\gamma` (default 1.5).
        ns_steps: Newton-Schulz steps k (default 1, as in the paper; its code has 5). 0: U is only divided by its Frobenius norm.
        nesterov: look one step ahead (default True).
        ns_coefficients, eps, ns_dtype: see :class:`~thalweg.optim.Muon`.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (3e-4, (0.9, 0.95), 1e-10, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a matrix, ``momentum_buffer``; two for the rest.

    Raises:
        ValueError: as for :class:`~thalweg.optim.Muon`; ``batched=True`` for a parameter without three dimensions.

    Example:
        >>> import torch
        >>> from thalweg.optim import HybridAuON
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = HybridAuON(model, lr=0.1, rest_lr=1e-3)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        gamma: float = 1.5,
        ns_steps: int = 1,
        nesterov: bool = True,
        ns_coefficients: Coefficients = "quintic",
        eps: float = 1e-7,
        ns_dtype: torch.dtype | str | None = None,
        rest_lr: float = 3e-4,
        rest_betas: tuple[float, float] = (0.9, 0.95),
        rest_eps: float = 1e-10,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        chain = Chain.of(momentum_of(momentum=momentum, nesterov=nesterov, ema=True))
        if ns_steps != 0:
            chain = chain >> orthogonalize(
                ns_steps=ns_steps, ns_coefficients=ns_coefficients, eps=eps, adjust_lr_fn="none", ns_dtype=ns_dtype
            )
        super().__init__(
            params,
            "hybrid_auon",
            chain >> cosh_damping(gamma=gamma, eps=eps, normalize=ns_steps == 0),
            lr=lr,
            weight_decay=weight_decay,
            rest_lr=rest_lr,
            rest_betas=rest_betas,
            rest_eps=rest_eps,
            rest_weight_decay=rest_weight_decay,
            **options,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; stacks of matrices are damped one by one."""
        super().add_param_group(_with_experts(param_group))


def _with_experts(param_group: dict[str, Any]) -> dict[str, Any]:
    """The group, which says of stacks of matrices that each has a norm of its own."""
    if not isinstance(param_group, dict) or not param_group.get("batched") or param_group.get("rule") == "adamw":
        return param_group
    params = param_group["params"]
    params = [params] if isinstance(params, Tensor) else list(params)
    for item in params:
        tensor = item[1] if isinstance(item, tuple) else item
        if tensor.ndim != 3:
            raise ValueError(f"batched=True is for stacks of matrices (E, m, n) here, not shape {tuple(tensor.shape)}")
    return {**param_group, "params": params, "experts": True}
