"""Checks of hyper-parameters by their name: one meaning, one range, one message, for every optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch


def _number(value: Any) -> float:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(f"a Tensor hyper-parameter must have one element, not {value.numel()}")
        return float(value)
    return value


def _at_least_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)


def _below_one(value: Any) -> bool:
    return _at_least_zero(value) and value < 1


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (_at_least_zero, "a number >= 0"),
    "weight_decay": (_at_least_zero, "a number >= 0"),
    "eps": (_at_least_zero, "a number >= 0"),
    "momentum": (_below_one, "in [0, 1)"),
    "betas": (
        lambda v: isinstance(v, tuple | list) and all(_below_one(_number(b)) for b in v),
        "a tuple of numbers in [0, 1)",
    ),
    "eta": (_at_least_zero, "a number >= 0"),
    "gamma": (_at_least_zero, "a number >= 0"),
    "trust_coefficient": (lambda v: _at_least_zero(v) and v > 0, "a number > 0"),
    "ns_steps": (lambda v: isinstance(v, int) and 1 <= v < 100, "a whole number from 1 to 99"),
    "clamp_norm": (
        lambda v: v is None or (len(v) == 2 and 0 <= v[0] <= v[1]),
        "None or (low, high) with 0 <= low <= high",
    ),
    "seed": (lambda v: isinstance(v, int), "a whole number"),
}


def check_hyperparameters(hypers: Mapping[str, Any]) -> None:
    """Raise a :class:`ValueError` for the first hyper-parameter out of its range; names without a known range pass."""
    for name, value in hypers.items():
        known = _RANGES.get(name)
        if known is None:
            continue
        test, words = known
        if not test(_number(value)):
            raise ValueError(f"Invalid {name}: {value!r} (must be {words})")


def plain(value: Any) -> Any:
    """A hyper-parameter as plain numbers: one-element tensors become floats, lists become tuples."""
    if isinstance(value, torch.Tensor):
        return float(value)
    if isinstance(value, list | tuple):
        return tuple(plain(v) for v in value)
    return value


def is_dynamic(value: Any) -> bool:
    """Whether a plain value may change without recompiling: a float, or a tuple of floats."""
    if isinstance(value, tuple):
        return len(value) > 0 and all(isinstance(v, float) for v in value)
    return isinstance(value, float)
