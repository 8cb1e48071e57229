"""Many small tensors joined into one vector: calling operators for each would cost more than copying the numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine.passes import Pass

JOIN_FROM, JOIN_BELOW = 12, 1_000_000
"""Tensors from which, and elements up to which, joining pays."""


def worth_joining(one_pass: Pass, params: Sequence[Tensor]) -> bool:
    """Whether ``params`` are many and small, and the pass sees each number alone."""
    many_small = len(params) >= JOIN_FROM and sum(p.numel() for p in params) < JOIN_BELOW
    return many_small and one_pass.sees_each_number_alone


def run_joined(
    run: Callable[..., Any],
    params: Sequence[Tensor],
    updates: Sequence[Tensor],
    states: Sequence[dict[str, Tensor]],
    values: Any,
    *_: Any,
) -> tuple[list[Tensor], list[tuple[Tensor, ...]]]:
    """``run(params, updates, states, values, keys, sums, grids)`` on one vector each instead of a list of tensors."""
    param, update = _join(params), _join(updates)
    state = {key: _join([own[key] for own in states]) for key in states[0]}
    size = tuple(param.shape)
    done, _ = run([param], [update], [state], values, [(0, 0)], None, [(size, (0,), size)])
    for key, flat in state.items():
        _part(flat, [own[key] for own in states])
    if not done:
        _part(param, params)
        return [], []
    return _cut(done[0], params), []


def _join(tensors: Sequence[Tensor]) -> Tensor:
    return torch._utils._flatten_dense_tensors(tensors)  # one call for all


def _part(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy consecutive pieces of ``flat`` into ``tensors``."""
    torch._foreach_copy_(list(tensors), _cut(flat, tensors))


def _cut(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = flat.split([t.numel() for t in like])
    return [piece if t.ndim == 1 else piece.view(t.shape) for piece, t in zip(pieces, like, strict=True)]
