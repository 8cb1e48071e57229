"""Matrix transforms with a rule of elementwise transforms in their middle: for large matrices that part is a pass like any other,
compiled and fused over all of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from thalweg.optim.engine.buckets import Bucket
from thalweg.optim.engine.matrices import CACHED_ALONE, Shape, Sink, State, View, store
from thalweg.optim.engine.passes import BoundTransform, Call, Done, Pass, bind, compute_dtype
from thalweg.optim.engine.transform import Chain


class Halves(Protocol):
    """What a matrix transform does before and after its rule; all on stacks ``(batch, m, n)``."""

    @property
    def rule(self) -> Chain:
        """What comes between: elementwise transforms that don't need the weights."""

    def enter(self, stack: Tensor, state: State, step: int, hypers: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """What :meth:`leave` needs to know again, and what the rule gets; assigns what state changes, the rule's too."""

    def count(self, step: int, hypers: Mapping[str, Any]) -> int:
        """The rule's own number of this step."""

    def leave(self, stack: Tensor, low: Tensor, direction: Tensor, state: State, hypers: Mapping[str, Any]) -> Tensor:
        """The update, from what was known and what the rule made of what it got; assigns what state changes."""


def large(transforms: Sequence[BoundTransform], bucket: Bucket, shapes: Sequence[Shape]) -> list[int]:
    """Places of the bucket's parameters that :func:`map_halves` is for: on a CPU those that wouldn't be stacked anyway."""
    if len(transforms) != 1 or transforms[0].type.halves is None or bucket.sharding is not None:
        return []
    if bucket.params[0].device.type != "cpu":
        return []
    return [i for i, (batch, m, n) in enumerate(shapes) if batch == 1 and 2 * m * n > CACHED_ALONE]


def map_halves(
    transform: BoundTransform,
    view: View,
    bucket: Bucket,
    updates: list[Tensor],
    places: Sequence[int],
    sink: Sink | None,
) -> Generator[Call, Done, None]:
    """The transform for the parameters at ``places``, each one matrix: yields the rule's call. What becomes of an update replaces it
    in the list, or goes into the sink."""
    halves: Halves = transform.type.halves
    hypers = dict(transform.static)
    step = hypers.pop("step")
    dtype = compute_dtype(bucket.params[0].dtype)
    shapes = [view.shape(bucket.params[i].shape) for i in places]
    stacks = [updates[i].reshape(shape) for i, shape in zip(places, shapes, strict=True)]
    kept = [_Kept(transform, view, bucket.states[i], dtype) for i in places]
    lows, given = [], []
    for stack, own in zip(stacks, kept, strict=True):
        low, for_rule = halves.enter(stack, own.given, step, hypers)
        lows.append(low)
        given.append(for_rule)
        own.write_back()
    group = {"lr": 0.0, "weight_decay": 0.0, **hypers}
    bound, values = bind(halves.rule, group, halves.count(step, hypers))
    notes = bucket.notes.setdefault(("halves", tuple(places)), {})
    states = notes.setdefault("states", [own.stored for own in kept])
    grids = [(tuple(one.shape), (0,) * one.ndim, tuple(one.shape)) for one in given]
    one_pass = Pass(tuple(bound), "update", "matrix")
    keys = [key for transform in bound for key in transform.state_keys]
    # A rule in a subspace has no parameters to look at: something that lies in memory like its state will do.
    likes = [_like(state[keys[0]], one.dtype) for state, one in zip(states, given, strict=True)] if keys else given
    directions, _ = yield Call(one_pass, likes, given, states, values, None, None, grids, notes)
    for k, i in enumerate(places):
        done = halves.leave(stacks[k], lows[k], directions[k], kept[k].given, hypers)
        kept[k].write_back()
        if sink is None:
            updates[i] = done.reshape(updates[i].shape)
        else:
            sink(i, slice(0, 1), done)


def _like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else torch.empty_like(tensor, dtype=dtype)


class _Kept:
    """State of one matrix: as it is stored, ``(1, ...)``, and in the dtype that is worked in."""

    def __init__(self, transform: BoundTransform, view: View, state: dict[str, Any], dtype: Any) -> None:
        self.stored: State = {}
        self.given: State = {}
        for (name, declared), key in zip(transform.type.matrix_state.items(), transform.state_keys, strict=True):
            self.stored[name] = view.as_stack(state[key])
            self.given[name] = self.stored[name] if isinstance(declared, tuple) else self.stored[name].to(dtype)
        self._seen = dict(self.given)

    def write_back(self) -> None:
        """Store what was assigned."""
        for name, tensor in self.given.items():
            if tensor is not self._seen[name]:
                store(tensor, self.stored[name])
                self._seen[name] = tensor
