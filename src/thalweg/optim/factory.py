"""Optimizers by name, as timm's users know them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from thalweg.registry import lookup, methods, unknown


def create(name: str, model: nn.Module, lr: float | None = None, **settings: Any) -> torch.optim.Optimizer:
    """The optimizer called ``name`` for a model: biases and norm gains aren't decayed, and matrix rules get the matrices.

    Args:
        name: see :func:`list_optimizers`; lower case.
        model: the module to train.
        lr: learning rate; ``None``: the method's default.
        settings: further arguments of the optimizer, such as ``weight_decay`` or ``betas``.

    Returns:
        The optimizer.

    Raises:
        ValueError: an unknown name (the message lists the choices) or a setting out of range.
        TypeError: a setting that the optimizer doesn't have.

    Example:
        >>> import torch
        >>> from thalweg.optim import create
        >>> type(create("lion", torch.nn.Linear(2, 2), lr=1e-4, weight_decay=0.1)).__name__
        'Lion'
    """
    if name not in list_optimizers():
        raise ValueError(unknown("optimizer", name, list_optimizers()))
    target = lookup(name, "optim").target
    return target(model, **settings) if lr is None else target(model, lr=lr, **settings)


def list_optimizers() -> list[str]:
    """Names that :func:`create` knows, sorted.

    Example:
        >>> from thalweg.optim import list_optimizers
        >>> "lion" in list_optimizers()
        True
    """
    return [name for name, m in methods("optim").items() if isinstance(m.target, type)]
