"""Checks of hyper-parameters by their name: one meaning, one range, one message, for every optimizer."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch


def _number(value: Any) -> float:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(f"a Tensor hyper-parameter must have one element, not {value.numel()}")
        return float(value)
    return value


def _at_least_zero(value: Any) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and 0 <= float(value) < math.inf


def _whole(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    return isinstance(value, numbers.Integral) and low <= int(value) <= high


def _below_one(value: Any) -> bool:
    return _at_least_zero(value) and value < 1


def _bounds(value: Any) -> bool:
    return value is None or (len(value) == 2 and _at_least_zero(value[0]) and value[0] <= value[1])


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (_at_least_zero, "a number >= 0"),
    "weight_decay": (_at_least_zero, "a number >= 0"),
    "eps": (_at_least_zero, "a number >= 0"),
    "momentum": (_below_one, "in [0, 1)"),
    "betas": (
        lambda v: isinstance(v, tuple | list) and all(_below_one(_number(b)) for b in v),
        "a tuple of numbers in [0, 1)",
    ),
    "beta2": (_below_one, "in [0, 1)"),
    "eta": (_at_least_zero, "a number >= 0"),
    "gamma": (_at_least_zero, "a number >= 0"),
    "trust_coefficient": (lambda v: _at_least_zero(v) and v > 0, "a number > 0"),
    "delta": (lambda v: v >= 0, "a number >= 0"),
    "wd_ratio": (lambda v: 0 <= v <= 1, "in [0, 1]"),
    "dampening": (lambda v: 0 <= v <= 1, "in [0, 1]"),
    "max_norm": (lambda v: v > 0, "a number > 0"),
    "rho": (lambda v: _at_least_zero(v) and v > 0, "a number > 0"),
    "friction_scale": (_at_least_zero, "a number >= 0"),
    "accumulator": (_at_least_zero, "a number >= 0"),
    "initial_accumulator_value": (_at_least_zero, "a number >= 0"),
    "ns_steps": (lambda v: _whole(v, 1, 99), "a whole number from 1 to 99"),
    "clamp_norm": (_bounds, "None or (low, high) with 0 <= low <= high"),
    "clamp_ratio": (_bounds, "None or (low, high) with 0 <= low <= high"),
    "norm_eps": (_at_least_zero, "a number >= 0"),
    "seed": (_whole, "a whole number"),
    "density": (lambda v: v is None or 0 <= v <= 1, "in [0, 1]"),
    "update_every": (lambda v: _whole(v, 1), "a whole number >= 1"),
    "scale": (_at_least_zero, "a number >= 0"),
    "residual_scale": (_at_least_zero, "a number >= 0"),
    "scaling": (lambda v: v in ("column", "matrix"), "column or matrix"),
    "norm_growth_limit": (lambda v: v is None or v >= 1, "None or a number >= 1"),
    "selection_norm": (lambda v: v in (1, 2), "1 or 2"),
    "history": (lambda v: _whole(v, 0), "a whole number >= 0"),
    "damping": (lambda v: _at_least_zero(v) and v > 0, "a number > 0"),
}


def check_hyperparameter(name: str, value: Any, label: str | None = None) -> None:
    """Raise a :class:`ValueError` if hyper-parameter ``name`` is out of its range; a name without a known range passes.

    ``label``: what the user calls it, if it was renamed.
    """
    if name not in _RANGES:
        return
    test, words = _RANGES[name]
    try:
        good = test(_number(value))
    except TypeError:  # no number at all
        good = False
    if not good:
        raise ValueError(f"Invalid {label or name}: {value!r} (must be {words})")


def check_kind(default: Any, value: Any, label: str) -> None:
    """Raise a :class:`ValueError` if a value isn't of its default's kind: a truth value, a number, a tuple of as many numbers."""
    if isinstance(default, tuple) and isinstance(value, tuple | list) and len(value) != len(default):
        raise ValueError(f"Invalid {label}: {value!r} (must be {len(default)} numbers)")
    if isinstance(default, bool) and not (isinstance(value, bool) or value in (0, 1)):
        raise ValueError(f"Invalid {label}: {value!r} (must be True or False)")
    if isinstance(default, float) and isinstance(value, str):
        raise ValueError(f"Invalid {label}: {value!r} (must be a number)")


def plain(value: Any) -> Any:
    """A hyper-parameter as plain values, which can be hashed and saved anywhere: one-element tensors become floats, lists
    tuples, dtypes their names, numbers of other packages (NumPy's) Python's own."""
    if isinstance(value, torch.Tensor):
        return float(value)
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return own_number(value)


def own_number(value: Any) -> Any:
    """Numbers of other packages, alone or in a tuple or list, as Python's own, which can be saved anywhere; all else as it is."""
    if isinstance(value, tuple | list):
        return type(value)(map(own_number, value)) if type(value) in (tuple, list) else value
    if type(value) in (int, float, bool, str) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def floats_like(default: Any, value: Any) -> Any:
    """Whole numbers as floats where the default is a float, so that ``weight_decay=0`` may become 0.1 without recompiling."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, tuple) and len(default) == len(value):
        return tuple(floats_like(d, v) for d, v in zip(default, value, strict=True))
    return value


def is_dynamic(value: Any) -> bool:
    """Whether a plain value may change without recompiling: a float, or a tuple of floats."""
    if isinstance(value, tuple):
        return len(value) > 0 and all(isinstance(v, float) for v in value)
    return isinstance(value, float)
