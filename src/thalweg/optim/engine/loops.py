"""Passes over any number of tensors as one call of a compiled loop."""

from __future__ import annotations

import array
import ctypes
import functools
import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from thalweg.optim.engine.building import built
from thalweg.optim.engine.cpp import source_of
from thalweg.optim.engine.passes import FRESH, Call, Done, Numbers, Pass, compute_dtype
from thalweg.optim.engine.staging import Array, NoLoopError

ALONE = 8_192
"""Elements of a call up to which one thread works on them."""

SHARED = 0.25
"""A tensor with more than this part of what falls to each thread is worked on by all of them, where there are sums."""

_SHAPES = ((1009,), (36, 38), (3, 5, 7, 11))
"""A pass is recorded for each. If it depends on shapes, the records differ; their numbers of elements are unlikely constants."""


class Loop:
    """A pass as a compiled loop, for tensors of given dtypes.

    Args:
        one_pass: what it does.
        dtypes: of the parameter, the update and the states, in the order of ``keys``.
        keys: of the states.
        values: how many hyper-parameters the pass is given.

    Raises:
        NoLoopError: the pass isn't a loop over elements.
        OSError: it can't be built here.
    """

    def __init__(self, one_pass: Pass, dtypes: tuple[torch.dtype, ...], keys: tuple[str, ...], values: int) -> None:
        self.keys = keys
        self.out = _out_dtype(one_pass, dtypes[0])
        sources = {_source(one_pass, dtypes, keys, values, self.out, shape) for shape in _SHAPES}
        if len(sources) > 1:
            raise NoLoopError("what the pass does depends on the shape")
        self._run = built(sources.pop()).run
        self._run.argtypes = [
            ctypes.c_int64,
            *[ctypes.c_void_p] * 2,
            ctypes.c_int64,
            *[ctypes.c_void_p] * 2,
            ctypes.c_int64,
        ]
        self._run.restype = None

    def ready(self, call: Call) -> Callable[[], Done]:
        """A function that runs the pass, for a call that :func:`loop_of` has found this loop for. Running one pushes all that Python
        looks at out of the caches, so get all ready before.
        """
        plan: _Plan = call.notes["plan", self.keys]
        states = [[state[key] for state in call.states] for key in self.keys]
        new = [] if self.out is None else [torch.empty_like(p, dtype=self.out) for p in call.params]
        columns: Sequence[Sequence[Tensor]] = (call.params, plan.laid_alike(call.updates), *states, new)
        pointers = array.array("Q", [tensor.data_ptr() for column in columns for tensor in column])
        values = array.array("d", call.values)
        threads = torch.get_num_threads() if plan.elements > ALONE else 1
        torch.autograd.graph.increment_version([*call.params, *itertools.chain(*states)])

        def run() -> Done:
            count, shared = len(columns[0]), plan.shared(threads)  # the columns must live until now
            self._run(count, _at(plan.lengths), _at(plan.order), shared, _at(pointers), _at(values), threads)
            return new, []

        return run


class _Plan:
    """What stays the same about the parameters and states of a call."""

    def __init__(self, call: Call, keys: tuple[str, ...]) -> None:
        params, states = call.params, call.states
        self.states = states
        self._params = params
        self._layouts = [(p.shape, p.stride()) for p in params]
        self.dtypes = (params[0].dtype, *(states[0][key].dtype for key in keys))
        self.regular = params[0].device.type == "cpu" and all(
            (param.dtype, *(state[key].dtype for key in keys)) == self.dtypes
            and _is_dense(param)
            and all((state[key].shape, state[key].stride()) == layout for key in keys)
            and not any(key in state for key in FRESH)
            for param, state, layout in zip(params, states, self._layouts, strict=True)
        )
        self._numels = [p.numel() for p in params]
        self.elements = sum(self._numels)
        order = sorted(range(len(params)), key=lambda i: -self._numels[i])
        self.lengths, self.order = array.array("q", self._numels), array.array("q", order)

    def laid_alike(self, updates: Sequence[Tensor]) -> Sequence[Tensor]:
        """The updates, in memory as the parameters are."""
        layouts = [(u.shape, u.stride()) for u in updates]
        if layouts == self._layouts:
            return updates
        return [
            u if layout == wanted else torch.empty_like(p, dtype=u.dtype).copy_(u)
            for u, p, layout, wanted in zip(updates, self._params, layouts, self._layouts, strict=True)
        ]

    def shared(self, threads: int) -> int:
        """How many tensors are too large for one thread."""
        limit = SHARED * self.elements / threads
        return 0 if threads == 1 else sum(numel > limit for numel in self._numels)


def _at(numbers: array.array[Any]) -> int:
    return numbers.buffer_info()[0]


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements lie in memory without gaps and each at a place of its own."""
    return tensor.is_contiguous() or torch.empty_like(tensor, device="meta").stride() == tensor.stride()


def loop_of(call: Call) -> Loop | None:
    """The loop that can run a call; None if there is none. Updates that lie in memory in another way than their parameters are
    copied."""
    one_pass = call.one_pass
    if not isinstance(one_pass, Pass) or "sums" in (one_pass.enter, one_pass.leave) or one_pass.draws:
        return None
    keys = tuple(key for transform in one_pass.transforms for key in transform.state_keys)
    plan = call.notes.get(("plan", keys))
    if plan is None:
        plan = call.notes["plan", keys] = _Plan(call, keys)
    dtypes = {u.dtype for u in call.updates}
    # Where states aren't the same list as before, something of this step only (see FRESH) may lie beside some of them.
    if not plan.regular or plan.states is not call.states or len(dtypes) != 1:
        return None
    return _loop(one_pass, (plan.dtypes[0], *dtypes, *plan.dtypes[1:]), keys, len(call.values))


@functools.lru_cache(maxsize=256)
def _loop(one_pass: Pass, dtypes: tuple[torch.dtype, ...], keys: tuple[str, ...], values: int) -> Loop | None:
    try:
        return Loop(one_pass, dtypes, keys, values)
    except NoLoopError:
        return None
    except OSError as error:
        if sys.platform.startswith("linux"):
            reason = (str(error).splitlines() or ["unknown error"])[0]
            warnings.warn(f"a loop can't be built, so Inductor compiles the step (slower): {reason}", stacklevel=2)
        return None


def _out_dtype(one_pass: Pass, dtype: torch.dtype) -> torch.dtype | None:
    """Dtype of the updates that a pass hands on, if it does."""
    if one_pass.leave == "apply":
        return None
    return one_pass.leave_dtype or compute_dtype(dtype)


def _source(
    one_pass: Pass,
    dtypes: tuple[torch.dtype, ...],
    keys: tuple[str, ...],
    values: int,
    out: torch.dtype | None,
    shape: tuple[int, ...],
) -> str:
    """The loop's program, as tensors of a shape show it."""
    written: list[str] = []

    def one(values: Tensor, param: Tensor, update: Tensor, *states: Tensor) -> list[Tensor]:
        given = dict(zip(keys, states, strict=True))
        new = one_pass.one(param, update, given, Numbers(values, None, None, (shape, (0,) * len(shape), shape)))
        written[:] = new.state
        changed = [new.state[key].to(given[key].dtype) for key in written]
        result = new.update if new.param is None else new.param.to(param.dtype)
        assert result is not None
        return [*changed, result]

    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"), FakeTensorMode():
        numbers = torch.empty(values, dtype=torch.float64)
        tensors = [torch.empty(shape, dtype=dtype) for dtype in dtypes]
        try:
            graph = make_fx(torch.func.functionalize(one))(numbers, *tensors).graph
        except Exception as error:  # whatever a user's transform makes of tensors without numbers, or of their shapes
            raise NoLoopError(f"it can't be recorded: {error}") from error
    names = [node.name for node in graph.nodes if node.op == "placeholder"]
    last = len(written)
    arrays = [Array(names[1], dtypes[0], last if out is None else None), Array(names[2], dtypes[1], None)]
    for name, dtype, key in zip(names[3:], dtypes[2:], keys, strict=True):
        arrays.append(Array(name, dtype, written.index(key) if key in written else None))
    if out is not None:
        arrays.append(Array(None, out, last))
    return source_of(graph, arrays, names[0])
