"""Compiled passes: one function per pass and list of shapes, so that nothing recompiles while training goes on.

``torch.compile`` fuses a whole list of tensors into one pass over memory. Inductor keeps what it compiled on disk (see
``TORCHINDUCTOR_CACHE_DIR``), so a later process only traces. The first process pays tens of seconds, which is why small problems
stay eager unless asked for.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine.joining import run_joined, worth_joining
from thalweg.optim.engine.passes import Pass

COMPILE_FROM = 4_000_000
"""Parameters of an optimizer from which compiling pays by itself (``compile=None``)."""

SMALL_PASS = 10_000
"""Elements below which a pass of a large optimizer stays eager all the same."""

MAX_FUNCTIONS = 32
"""Compiled functions kept for each optimizer. Lists of tensors that keep changing (unused experts) then run eagerly."""

SHARED_FUNCTIONS = 128
"""Compiled functions kept for all optimizers of a process, the latest used."""


class Compiler:
    """Chooses between eager and compiled for every pass of one optimizer, and keeps the compiled functions."""

    def __init__(self, mode: bool | None) -> None:
        if mode not in (None, True, False):
            raise ValueError(f"compile must be None, True or False, not {mode!r}")
        self.mode = mode
        self.elements = 0  # of the whole optimizer
        self._functions: dict[Any, Callable[..., Any]] = {}

    def wants(self, params: Sequence[Tensor]) -> bool:
        """Whether a pass over ``params`` is to be compiled."""
        if self.mode is not None:
            return self.mode
        large = self.elements >= COMPILE_FROM and sum(p.numel() for p in params) >= SMALL_PASS
        return large and can_compile(params[0].device.type)

    def run(self, one_pass: Pass, params: Sequence[Tensor], *arguments: Any) -> Any:
        """``one_pass(params, updates, states, values, keys, sums, grids)`` in the way that is fastest here."""
        if worth_joining(one_pass, params):
            return run_joined(functools.partial(self._run, one_pass), params, *arguments)
        return self._run(one_pass, params, *arguments)

    def _run(self, one_pass: Pass, params: Sequence[Tensor], *arguments: Any) -> Any:
        if not params or not self.wants(params):
            return one_pass(params, *arguments)
        updates, states, values, keys, sums, grids = arguments
        device = params[0].device
        signature = (one_pass, device, *map(_layout, params, updates, states), tuple(grids))
        function = self._functions.get(signature)
        if function is None:
            if len(self._functions) >= MAX_FUNCTIONS:
                return one_pass(params, *arguments)
            function = self._functions[signature] = _compiled(signature)
        vector = torch.tensor(values, dtype=torch.float64).to(device, non_blocking=True)
        keys = torch.tensor(keys, dtype=torch.int64).to(device, non_blocking=True)
        return function(params, updates, states, vector, keys, sums, grids)


def _layout(param: Tensor, update: Tensor, state: dict[str, Tensor]) -> tuple[Any, ...]:
    """All that a compiled function takes for granted of one parameter."""
    return tuple((type(t), t.dtype, t.shape, t.stride(), t.requires_grad) for t in (param, update, *state.values()))


@functools.lru_cache(maxsize=SHARED_FUNCTIONS)
def _compiled(signature: tuple[Any, ...]) -> Callable[..., Any]:
    """The pass ``signature[0]``, compiled; shared by the optimizers of this process, so that a second training run compiles nothing.

    A copied code object keeps its cache apart from every other pass's.
    """
    one_pass = signature[0]

    def fused(params: Any, updates: Any, states: Any, values: Any, keys: Any, sums: Any, grids: Any) -> Any:
        return one_pass(params, updates, states, values, keys, sums, grids)

    sums = any(t.sums is not None for t in one_pass.transforms)
    name = f"fused_{next(_numbers)}"
    own = types.FunctionType(fused.__code__.replace(co_name=name), fused.__globals__, name, None, fused.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False, options=_WORK_OUT_TWICE if sums else None)


_WORK_OUT_TWICE: dict[str, Any] = {"realize_reads_threshold": 1000, "realize_opcount_threshold": 1000}
"""Inductor is to work an update out twice rather than store it between the sum over it and its use: storing means new
memory at each step. Without sums the plain setting is faster."""

_numbers = itertools.count()


@functools.cache
def can_compile(device_type: str) -> bool:
    """Whether this machine has what ``torch.compile`` needs; warns once where it has not."""
    if device_type == "cpu":
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("cl")
        if compiler is None:
            warnings.warn("no C++ compiler found: optimizer steps run uncompiled (slower); install g++", stacklevel=2)
        return compiler is not None
    return device_type == "cuda" and sys.platform == "linux"
