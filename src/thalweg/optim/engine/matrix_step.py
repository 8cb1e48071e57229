"""Matrix transforms applied to the parameters of a bucket."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from thalweg.optim.engine.buckets import Bucket
from thalweg.optim.engine.halves import large, map_halves
from thalweg.optim.engine.matrices import CACHED, CACHED_ALONE, MAX_STACK, Sink, State, View, map_stacks
from thalweg.optim.engine.passes import BoundTransform, Call, Done, Pass, compute_dtype
from thalweg.optim.engine.sharding import local

SMALL = 32_768
"""Elements below which rows are scaled at once; the passes then may handle such tensors together."""


def map_matrices(
    transforms: Sequence[BoundTransform],
    view: View,
    bucket: Bucket,
    updates: list[Tensor],
    sink: Sink | None = None,
) -> Generator[Call, Done, tuple[list[Tensor], list[Tensor | None]]]:
    """What matrix transforms, one after the other, make of the bucket's updates (the list is emptied); their state changes in place.
    Yields calls of passes in between.

    Args:
        transforms, view, bucket, updates: as they are in the step.
        sink: see :func:`written_at_once`.

    Returns:
        For each parameter, local if it is sharded: the new update, and numbers that it is yet to be multiplied by, or None.
    """
    dtype = compute_dtype(bucket.params[0].dtype)

    def function(stack: Tensor, state: State) -> tuple[Tensor, Tensor | None]:
        scale = None
        for transform in transforms:
            done = _apply(transform, stack if scale is None else stack * scale, state, dtype)
            stack, scale = done if isinstance(done, tuple) else (done, None)
        return stack, scale

    shapes = [view.shape(p.shape) for p in bucket.params]
    places = large(transforms, bucket, shapes)
    if places:
        yield from map_halves(transforms[0], view, bucket, updates, places, sink)
    keys = [key for transform in transforms for key in transform.state_keys]
    states: list[State] = [{key: own[key] for key in keys} for own in bucket.states]
    if bucket.sharding is None:
        stacks = [{key: view.as_stack(local(t)) for key, t in state.items()} for state in states]
        most = _largest_stack(transforms, bucket)
        new, scales = map_stacks(function, updates, shapes, stacks, most, sink, frozenset(places))
        if sink is not None:
            return [], []
    else:
        wholes = [tuple(p.shape) for p in bucket.params]
        new, scales = bucket.sharding.map_matrices(function, updates, wholes, shapes, states, view)
    for i, scale in enumerate(scales):
        if scale is None:
            continue
        scale = scales[i] = view.spread(scale, new[i].shape)
        if new[i].numel() < SMALL:
            new[i], scales[i] = new[i] * scale, None
    return new, scales


def _largest_stack(transforms: Sequence[BoundTransform], bucket: Bucket) -> int:
    """Elements; on other devices it costs more to start many small operators than to copy."""
    if bucket.params[0].device.type != "cpu":
        return MAX_STACK
    return CACHED_ALONE if all(transform.type.alone for transform in transforms) else CACHED


def written_at_once(
    transforms: Sequence[BoundTransform], last: Pass, view: View, bucket: Bucket, values: Sequence[float]
) -> Sink | None:
    """A sink that takes the step with each matrix while it is in the cache, where the pass ``last`` after the matrix transforms only
    subtracts a multiple of it; None elsewhere.
    """
    params = bucket.params
    plain = all(p.is_contiguous() and compute_dtype(p.dtype) is p.dtype for p in params)
    if bucket.sharding is not None or not plain or not all(transform.type.alone for transform in transforms):
        return None
    multiple = last.multiple(values)
    if multiple is None:
        return None
    kept, stretch = multiple
    matrices = [p.view(view.shape(p.shape)) for p in params]

    def sink(i: int, cut: slice, update: Tensor) -> None:
        weights = matrices[i][cut]
        if kept != 1:
            weights.mul_(kept)
        weights.sub_(update, alpha=stretch)

    return sink


def _apply(
    transform: BoundTransform, stack: Tensor, state: State, dtype: torch.dtype
) -> Tensor | tuple[Tensor, Tensor | None]:
    """One transform; its state is widened to ``dtype``, unless it has a dtype of its own."""
    kind = transform.type
    if not kind.state:
        return kind.update(stack, **dict(transform.static))
    given = {}
    for (name, declared), key in zip(kind.matrix_state.items(), transform.state_keys, strict=True):
        given[name] = state[key] if isinstance(declared, tuple) else state[key].to(dtype)
    new = dict(given)
    done = kind.update(stack, new, **dict(transform.static))
    for name, key in zip(given, transform.state_keys, strict=True):
        if new[name] is not given[name]:
            state[key] = new[name]
    return done
