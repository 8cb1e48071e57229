"""Remembers what a function gives, on each device apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """:func:`functools.cache` for functions that give tensors: one memory for each default device.

    Args:
        function: takes hashable arguments; what it gives isn't changed by those who get it.

    Example:
        >>> @remembered
        ... def ones(n: int) -> torch.Tensor:
        ...     return torch.ones(n)
        >>> ones(2) is ones(2), ones(2).device == ones(3).device
        (True, True)
        >>> with torch.device("meta"):
        ...     ones(2).device
        device(type='meta')
    """

    @cache
    def kept(_: torch.device, *args: Any, **settings: Any) -> R:
        return function(*args, **settings)

    @wraps(function)
    def given(*args: P.args, **settings: P.kwargs) -> R:
        return kept(torch.get_default_device(), *args, **settings)  # type: ignore[arg-type]

    return given
