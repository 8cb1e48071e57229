"""Arithmetic that must not be rounded because its caller trains under ``torch.autocast``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor

_NOTHING = nullcontext()


def autocast_off(tensors: Iterable[Tensor]) -> AbstractContextManager[Any]:
    """A context without ``torch.autocast`` on the tensors' devices: there, products of matrices would lose half their digits.

    Where autocast is off anyway this is one look at a flag, and ``tensors`` isn't gone through.

    Args:
        tensors: what is worked on; only the devices are looked at.

    Returns:
        The context, for one use.

    Example:
        >>> from thalweg.linalg.autocast import autocast_off
        >>> x = torch.eye(2)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     with autocast_off([x]):
        ...         inside = x @ x
        ...     inside.dtype, (x @ x).dtype
        (torch.float32, torch.bfloat16)
    """
    if not torch._C._is_any_autocast_enabled():
        return _NOTHING
    context = ExitStack()
    for kind in {tensor.device.type for tensor in tensors}:
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            context.enter_context(torch.autocast(kind, enabled=False))
    return context
