"""The functions that programs are made of: names, argument types, and what they compute (arXiv:2302.06675)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.optim.sign import sign

Kind = Literal["tensor", "scalar"]
"""What a variable holds: a tensor of the weights' shape, or one number for each parameter tensor."""

Slot = Literal["tensor", "scalar", "any"]


@dataclass(frozen=True)
class Function:
    """One function of the language.

    Args:
        compute: of one value for each argument; where ``scope`` is "all", of lists with one value for each parameter tensor.
        slots: what each argument may be.
        result: "tensor" or "scalar", or "widest": a tensor where any argument is one.
        scope: "element" (each number alone), "tensor" (needs the whole tensor) or "all" (needs all parameters' tensors).
        commutes: whether exchanging the arguments changes nothing.
    """

    compute: Callable[..., Any]
    slots: tuple[Slot, ...]
    result: Literal["tensor", "scalar", "widest"] = "widest"
    scope: Literal["element", "tensor", "all"] = "element"
    commutes: bool = False

    def kind(self, arguments: Sequence[Kind]) -> Kind | None:
        """What it gives for arguments of these kinds; None where they don't fit."""
        if len(arguments) != len(self.slots):
            return None
        if any(slot not in ("any", kind) for slot, kind in zip(self.slots, arguments, strict=True)):
            return None
        if self.result == "widest":
            return "tensor" if "tensor" in arguments else "scalar"
        return self.result


def divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y, with 0 / 0 = 0: a weight that never had a gradient stays. Other divisions by 0, and NaN, stay what they are."""
    return (x / y).masked_fill((x == 0) & (y == 0), 0.0)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return divide((x * y).sum(), x.norm() * y.norm())


def _global_norm(tensors: Sequence[Tensor]) -> list[Tensor]:
    norm = torch.stack([x.double().square().sum() for x in tensors]).sum().sqrt()
    return [norm] * len(tensors)


def _clip(tensors: Sequence[Tensor], bounds: Sequence[Tensor]) -> list[Tensor]:
    """All tensors shortened together to a joint norm of at most the bound."""
    norms = _global_norm(tensors)
    return [_shortened(x, c, norm) for x, c, norm in zip(tensors, bounds, norms, strict=True)]


def _shortened(x: Tensor, bound: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm == 0, x, x * (bound / norm).clamp(max=1.0))


def _constant(value: float) -> Function:
    return Function(lambda: torch.tensor(value, dtype=torch.float64), (), "scalar")


def _unary(compute: Callable[[Tensor], Tensor]) -> Function:
    return Function(compute, ("any",))


FUNCTIONS: dict[str, Function] = {
    "pi": _constant(math.pi),
    "e": _constant(math.e),
    "eps": _constant(1e-8),
    "abs": _unary(torch.abs),
    "cos": _unary(torch.cos),
    "sin": _unary(torch.sin),
    "tan": _unary(torch.tan),
    "arcsin": _unary(torch.asin),
    "arccos": _unary(torch.acos),
    "arctan": _unary(torch.atan),
    "sinh": _unary(torch.sinh),
    "cosh": _unary(torch.cosh),
    "tanh": _unary(torch.tanh),
    "arcsinh": _unary(torch.asinh),
    "arccosh": _unary(torch.acosh),
    "arctanh": _unary(torch.atanh),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "exp10": _unary(lambda x: torch.pow(10.0, x)),
    "expm1": _unary(torch.expm1),
    "log": _unary(lambda x: x.abs().log()),
    "log10": _unary(lambda x: x.abs().log10()),
    "log2": _unary(lambda x: x.abs().log2()),
    "log1p": _unary(lambda x: (1 + x).abs().log()),
    "square": _unary(torch.square),
    "sqrt": _unary(lambda x: x.abs().sqrt()),
    "cube": _unary(lambda x: x * x * x),
    "cbrt": _unary(lambda x: sign(x) * x.abs().pow(1 / 3)),
    "sign": _unary(sign),
    "reciprocal": _unary(torch.reciprocal),
    "neg": _unary(torch.neg),
    "norm": Function(lambda x: x.square().sum().sqrt(), ("tensor",), "scalar", "tensor"),
    "global_norm": Function(_global_norm, ("tensor",), "scalar", "all"),
    "add": Function(torch.add, ("any", "any"), commutes=True),
    "sub": Function(torch.sub, ("any", "any")),
    "mul": Function(torch.mul, ("any", "any"), commutes=True),
    "div": Function(divide, ("any", "any")),
    "power": Function(torch.pow, ("any", "any")),
    "dot": Function(lambda x, y: (x * y).sum(), ("tensor", "tensor"), "scalar", "tensor", commutes=True),
    "cosine_sim": Function(_cosine, ("tensor", "tensor"), "scalar", "tensor", commutes=True),
    "clip": Function(_clip, ("tensor", "scalar"), "tensor", "all"),
    "interp": Function(lambda x, y, a: (1 - a) * x + a * y, ("any", "any", "scalar")),
}
"""All functions by name. ``log``, ``log10``, ``log2``, ``sqrt`` take absolute values, ``log1p(x)`` is log|1 + x|."""

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
"""Functions that are written between their arguments."""
