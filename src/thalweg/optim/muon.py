"""Muon: momentum of hidden matrices, orthogonalized (arXiv:2509.24406)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.linalg.polar import Coefficients, coefficient_table, newton_schulz, newton_schulz_dtype
from thalweg.optim.engine import matrix
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.matrix_optimizer import MatrixOptimizer
from thalweg.optim.momentum import momentum as momentum_of
from thalweg.registry import Space, method

ShapeScale = Literal["original", "match_rms_adamw", "spectral", "none"]


def shape_scale(m: int, n: int, rule: str | None) -> float:
    """Factor of an orthogonalized m x n update (m outputs): see :class:`Muon`'s ``adjust_lr_fn``; ``None``, in states that torch's
    Muon saved, is "original"."""
    rule = "original" if rule is None else rule
    scales = {
        "original": math.sqrt(max(1.0, m / n)),
        "match_rms_adamw": 0.2 * math.sqrt(max(m, n)),
        "spectral": math.sqrt(m / n),
        "none": 1.0,
    }
    if rule not in scales:
        raise ValueError(f"unknown adjust_lr_fn {rule!r} (choose from {', '.join(scales)})")
    return scales[rule]


def iteration_dtype(device: torch.device, dtype: torch.dtype, ns_dtype: str | None = None, **_: Any) -> torch.dtype:
    """The dtype that ``ns_dtype`` asks for, or the one for such a device and dtype."""
    return newton_schulz_dtype(device, dtype) if ns_dtype is None else _dtype(ns_dtype)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"unknown ns_dtype {name!r} (choose from float32, float64, bfloat16)")
    if torch.finfo(found).max < torch.finfo(torch.bfloat16).max:
        raise ValueError(
            f"ns_dtype can't be {name}: squares of gradients leave its range (choose from float32, float64, bfloat16)"
        )
    return found


def check_orthogonalize(ns_coefficients: Coefficients, adjust_lr_fn: str, ns_dtype: str | None, **_: Any) -> None:
    """Raise a :class:`ValueError` for settings of :func:`orthogonalize` that are unknown."""
    coefficient_table(ns_coefficients)
    shape_scale(1, 1, adjust_lr_fn)
    if ns_dtype is not None:
        _dtype(ns_dtype)


@matrix(input_dtype=iteration_dtype, check=check_orthogonalize)
def orthogonalize(
    stack: Tensor,
    *,
    ns_steps: int = 5,
    ns_coefficients: Coefficients = "quintic",
    eps: float = 1e-7,
    adjust_lr_fn: str = "original",
    ns_dtype: str | None = None,
) -> Tensor:
    r"""Replace each matrix by (nearly) its polar factor, times a factor of its shape; see :class:`Muon`.

    Example:
        >>> from thalweg.optim import Chained, orthogonalize
        >>> p = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
        >>> p.grad = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> Chained([p], orthogonalize(ns_dtype=torch.float64), lr=1.0).step()
        >>> bool((torch.linalg.svdvals(p.data) - 1).abs().max() < 0.4)  # all singular values are near 1
        True
    """
    factor = shape_scale(stack.shape[-2], stack.shape[-1], adjust_lr_fn)
    dtype = None if ns_dtype is None else _dtype(ns_dtype)
    return newton_schulz(stack, ns_steps, ns_coefficients, eps, dtype, scale=factor)


MUON_SEARCH: dict[str, Space] = {
    "lr": ("log", 1e-3, 1e-1),
    "rest_lr": ("log", 1e-4, 3e-2),
    "weight_decay": ("log", 1e-4, 1e-1),
}
"""What is tuned for Muon, and for its relatives with steps of the same size."""


@method(
    "muon",
    search=MUON_SEARCH,
    use="Transformers and other networks of mostly hidden matrices; two learning rates to tune.",
)
class Muon(MatrixOptimizer):
    r"""Muon for hidden weight matrices, AdamW for the rest (arXiv:2509.24406, after Jordan et al. 2024).

    .. math::
        M \leftarrow \mu M + (1-\mu) G, \quad U = (1-\mu) G + \mu M \text{ (Nesterov)}, \quad
        W \leftarrow (1 - \eta\lambda) W - \eta\, s\, \mathrm{NS}(U)

    NS is five Newton-Schulz steps (:func:`thalweg.linalg.polar.newton_schulz`): all singular directions move by about the same
    amount. Matrices of equal shape are stacked into one call; convolutions count as (out, in * kh * kw).

    Args:
        params: best a module: embeddings, the output head and everything below two dimensions go to AdamW, the rest to Muon
            (:func:`thalweg.optim.muon_groups`; ``print(optimizer)`` shows the choice). Parameter groups choose by
            ``rule="muon"`` or ``"adamw"``; stacked experts (E, m, n) need ``batched=True``, a fused projection for queries, keys and
            values is best taken apart by ``split=3``. Bare parameters are parted by their number of dimensions alone, which can't tell
            an embedding from a hidden matrix.
        lr: learning rate of the matrices (default 0.02).
        momentum: :math:`\mu` (default 0.95).
        nesterov: look one step ahead (default True).
        weight_decay: decoupled decay of the matrices (default 0).
        ns_steps: Newton-Schulz steps (default 5).
        ns_coefficients: "quintic" (default), "polar_express", a triple, or a triple per step.
        eps: lower bound of the norm in Newton-Schulz (default 1e-7).
        adjust_lr_fn: the factor s for an m x n matrix: "original" sqrt(max(1, m/n)) (default); "match_rms_adamw"
            0.2 sqrt(max(m, n)), so that AdamW's lr carries over; "spectral" sqrt(m/n); "none" 1.
        ns_dtype: dtype of the iteration or its name, but not float16, which squares of gradients leave (default None: bfloat16
            where the hardware gains, else float32; float64 for float64 parameters).
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (3e-4, (0.9, 0.95), 1e-10, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a matrix, ``momentum_buffer``; two for the rest.

    Raises:
        ValueError: a setting out of range; a parameter below two dimensions, a complex one, or one whose rows ``split`` doesn't
            divide, in a group with ``rule="muon"``.

    Example:
        >>> import torch
        >>> from thalweg.optim import Muon
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = Muon(model, lr=0.02, rest_lr=1e-3)
        >>> model(torch.ones(8, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> [(group["rule"], group["param_names"]) for group in optimizer.param_groups]
        [('muon', ['0.weight']), ('adamw', ['2.weight']), ('adamw', ['0.bias', '2.bias'])]
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        ns_coefficients: Coefficients = "quintic",
        eps: float = 1e-7,
        adjust_lr_fn: ShapeScale = "original",
        ns_dtype: torch.dtype | str | None = None,
        rest_lr: float = 3e-4,
        rest_betas: tuple[float, float] = (0.9, 0.95),
        rest_eps: float = 1e-10,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        chain = momentum_of(momentum=momentum, nesterov=nesterov, ema=True) >> orthogonalize(
            ns_steps=ns_steps,
            ns_coefficients=ns_coefficients,
            eps=eps,
            adjust_lr_fn=adjust_lr_fn,
            ns_dtype=ns_dtype,
        )
        super().__init__(
            params,
            "muon",
            chain,
            lr=lr,
            weight_decay=weight_decay,
            rest_lr=rest_lr,
            rest_betas=rest_betas,
            rest_eps=rest_eps,
            rest_weight_decay=rest_weight_decay,
            **options,
        )
