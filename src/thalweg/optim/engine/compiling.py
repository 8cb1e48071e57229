"""Which passes are compiled, and how; nothing recompiles while training goes on.

On a CPU most passes are loops over elements, and are built in half a second (see ``loops.py``). The rest, and all on other devices,
goes to Inductor, the compiler behind ``torch.compile``: one function per pass and list of shapes, which fuses a whole list of tensors
into one pass over memory. It keeps what it compiled on disk (see ``TORCHINDUCTOR_CACHE_DIR``), so a later process only traces. The
first process pays tens of seconds, which is why small problems stay eager unless asked for. Passes hold no Python that depends on
numbers, so they are traced as they run: without ``torch.compile`` itself, whose look at their source takes longer than compiling, and
whose call takes longer than Inductor's.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine.joining import Piece, pieces
from thalweg.optim.engine.loops import loop_of
from thalweg.optim.engine.passes import FRESH, Call, Done
from thalweg.optim.engine.tracing import traced

COMPILE_FROM = 4_000_000
"""Parameters of an optimizer from which compiling pays by itself (``compile=None``)."""

SMALL_PASS = 10_000
"""Elements below which a pass of a large optimizer stays eager all the same."""

MAX_LAYOUTS = 4096
"""Layouts of parameters that are numbered."""

MAX_FUNCTIONS = 32
"""Compiled functions kept for each optimizer. Lists of tensors that keep changing (unused experts) then run eagerly."""

SHARED_FUNCTIONS = 128
"""Compiled functions kept for all optimizers of a process, the latest used."""


Program = Generator[Call, Done, None]
"""A step of some parameters: yields calls, one after the other, and takes what each hands on."""


class Compiler:
    """Chooses between eager and compiled for every pass of one optimizer, and keeps the compiled functions."""

    def __init__(self, mode: bool | None) -> None:
        if mode not in (None, True, False):
            raise ValueError(f"compile must be None, True or False, not {mode!r}")
        self.mode = mode
        self._elements = 0, 0  # of how many parameters together, and how many that is
        self._functions: dict[Any, Callable[..., Any]] = {}
        # Where a user's own torch.compile goes through the step, it is to leave this out.
        self._run_as_it_is = torch.compiler.disable(self._run_compiled)

    def wants(self, call: Call) -> bool:
        """Whether a call is to be compiled."""
        if self.mode is not None:
            return self.mode
        if self._elements[1] < COMPILE_FROM:
            return False
        if "elements" not in call.notes:
            call.notes["elements"] = sum(p.numel() for p in call.params)
        return call.notes["elements"] >= SMALL_PASS and can_compile(call.params[0].device.type)

    def count(self, params: Sequence[Tensor]) -> None:
        """Take note of how large the whole optimizer is."""
        if len(params) != self._elements[0]:
            self._elements = len(params), sum(p.numel() for p in params)

    def run_programs(self, programs: Sequence[Program]) -> None:
        """Run programs side by side: the first call of each, then the second, ..."""
        waiting = [(program, next(program)) for program in programs]
        while waiting:
            done = self.run([call for _, call in waiting])
            going = []
            for (program, _), handed_on in zip(waiting, done, strict=True):
                with contextlib.suppress(StopIteration):
                    going.append((program, program.send(handed_on)))
            waiting = going

    def run(self, calls: Sequence[Call]) -> list[Done]:
        """Run all calls in the way that is fastest here."""
        wanted = [self.wants(call) for call in calls]
        return (self._run_as_it_is if any(wanted) else self._run_pieces)(calls, wanted)

    def _run_compiled(self, calls: Sequence[Call], wanted: Sequence[bool]) -> list[Done]:
        """Run calls of which some are to be compiled: as loops over elements, where they are such."""
        loops = [loop_of(call) if compile_it else None for call, compile_it in zip(calls, wanted, strict=True)]
        ready = [loop.ready(call) if loop else None for loop, call in zip(loops, calls, strict=True)]
        rest = [place for place, run in enumerate(ready) if run is None]
        done = iter(self._run_pieces([calls[i] for i in rest], [wanted[i] for i in rest]) if rest else ())
        return [run() if run else next(done) for run in ready]

    def _run_pieces(self, calls: Sequence[Call], wanted: Sequence[bool]) -> list[Done]:
        """Run calls eagerly, or with Inductor: small tensors together, and all that is compiled in one function."""
        done: list[dict[int, Any]] = [{} for _ in calls]
        compiled: dict[torch.device, list[tuple[int, Piece]]] = {}
        for number, (call, compile_it) in enumerate(zip(calls, wanted, strict=True)):
            for piece in pieces(call, compile_it):
                if compile_it:
                    compiled.setdefault(call.params[0].device, []).append((number, piece))
                else:
                    _hand_in(done[number], piece, piece.call.run())
        for together in compiled.values():
            results = self._run_fused([piece.call for _, piece in together])
            for (number, piece), result in zip(together, results, strict=True):
                _hand_in(done[number], piece, result)
        return [_in_order(own) for own in done]

    def _run_fused(self, calls: Sequence[Call]) -> list[Done]:
        """Run the calls in one function of Inductor's."""
        signature = (torch.get_num_threads(), torch.is_inference_mode_enabled(), *map(_signature, calls))
        function = self._functions.get(signature)
        if function is None:
            if len(self._functions) >= MAX_FUNCTIONS:
                return [call.run() for call in calls]
            function = self._functions[signature] = _shared(signature)
        return function(calls)


def _hand_in(done: dict[int, Any], piece: Piece, result: Done) -> None:
    updates, sums = piece.finish(result)
    for k, place in enumerate(piece.places if updates or sums else ()):
        done[place] = (updates[k] if updates else None, sums[k] if sums else None)


def _in_order(done: dict[int, Any]) -> Done:
    """Updates and sums of a call's parameters, in their order."""
    pairs = [done[place] for place in sorted(done)]
    return [u for u, _ in pairs if u is not None], [s for _, s in pairs if s is not None]


def _signature(call: Call) -> tuple[Any, ...]:
    """All that a compiled function takes for granted: it looks at nothing itself."""
    kept = call.notes.get("layout")
    if kept is None:
        states = [{key: t for key, t in state.items() if key not in FRESH} for state in call.states]
        tensors = [*call.params, *(t for state in states for t in state.values())]
        known = (call.params[0].device, _layouts(tensors), tuple(states[0]), tuple(call.grids))
        number = _LAYOUTS.setdefault(known, len(_LAYOUTS)) if len(_LAYOUTS) < MAX_LAYOUTS else known
        kept = call.notes["layout"] = number
    beside = [(key, place) for key in FRESH for place, state in enumerate(call.states) if key in state]
    fresh = _layouts([*call.updates, *(call.states[place][key] for key, place in beside)])
    sums = () if call.sums is None else tuple(len(own) for own in call.sums)
    streams = None if call.keys is None else len(call.keys[0])
    return call.one_pass, kept, fresh, tuple(beside), sums, streams


def _layouts(tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], ...]:
    return (
        tuple(map(type, tensors)),
        tuple([t.dtype for t in tensors]),
        tuple([t.shape for t in tensors]),
        tuple([t.stride() for t in tensors]),
        tuple([t.requires_grad for t in tensors]),
    )


_LAYOUTS: dict[Any, int] = {}
"""Layouts of parameters and states seen so far, numbered: a number is compared faster at each step."""


@functools.lru_cache(maxsize=SHARED_FUNCTIONS)
def _shared(signature: tuple[Any, ...]) -> Fused:
    """The compiled function for ``signature``, shared by the optimizers of this process, so that a second training run compiles
    nothing."""
    return Fused()


class Fused:
    """The passes of some calls as one compiled function, made when it is first called; then for calls of the same signature only."""

    def __init__(self) -> None:
        self._function: Callable[..., Sequence[Tensor]] | None = None
        self._handed_on: list[tuple[int, list[int]]] = []

    def __call__(self, calls: Sequence[Call]) -> list[Done]:
        """Run the calls."""
        leaves = [leaf for call in calls for leaf in _leaves(call)]
        if self._function is None:
            self._function = self._compiled(calls, leaves)
        new = iter(self._function(*leaves))
        return [
            (_next(new, updates), [tuple(_next(new, count)) for count in sums]) for updates, sums in self._handed_on
        ]

    def _compiled(self, calls: Sequence[Call], leaves: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
        def fused(*leaves: Tensor) -> list[Tensor]:
            given = iter(leaves)
            done = [call.one_pass(*_arguments(call, given)) for call in calls]
            self._handed_on = [(len(updates), [len(own) for own in sums]) for updates, sums in done]
            return [tensor for updates, sums in done for tensor in (*updates, *itertools.chain(*sums))]

        from torch._subclasses import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        options = dict(_OPTIONS)
        if any(call.one_pass.has_sums for call in calls):
            options |= _WORK_OUT_TWICE
        # Stand-ins without numbers, none of which share memory; without shapes' own record Inductor doesn't look on its disk.
        with FakeTensorMode(shape_env=ShapeEnv()), traced():
            stand_ins: list[Any] = [_stand_in(leaf) for leaf in leaves]
            graph = make_fx(fused)(*stand_ins)
        return torch._inductor.compile(graph, stand_ins, options=options)


def _leaves(call: Call) -> list[Tensor]:
    """What a call works on, in a row; what changes from step to step as tensors, so that nothing recompiles."""
    device = call.params[0].device
    found = [*call.params, *call.updates, torch.tensor(call.values, dtype=torch.float64, device=device)]
    for state in call.states:
        found += state.values()
    for own in call.sums or ():
        found += own
    if call.keys is not None:
        found.append(torch.tensor(call.keys, dtype=torch.int64, device=device))
    return found


def _arguments(call: Call, leaves: Iterator[Tensor]) -> tuple[Any, ...]:
    """Arguments of the call's pass, with such leaves in place of its own."""
    params, updates = _next(leaves, len(call.params)), _next(leaves, len(call.updates))
    values = next(leaves)
    states = [dict(zip(state, _next(leaves, len(state)), strict=True)) for state in call.states]
    sums = None if call.sums is None else [tuple(_next(leaves, len(own))) for own in call.sums]
    keys = None if call.keys is None else next(leaves)
    return params, updates, states, values, keys, sums, call.grids


def _next(items: Iterator[Tensor], count: int) -> list[Tensor]:
    return list(itertools.islice(items, count))


def _stand_in(tensor: Tensor) -> Tensor:
    return torch.empty_strided(
        tensor.shape,
        tensor.stride(),
        dtype=tensor.dtype,
        device=tensor.device,
        requires_grad=tensor.requires_grad,
    )


_OPTIONS: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False, "score_fusion_memory_threshold": 512}
"""The signature has said all that assertions would check again at each step. And no loop is to go over several parameters: they share
no more than a few hyper-parameters of eight bytes, and many places read at once take 5 to 15% more time than one after the other."""

_WORK_OUT_TWICE: dict[str, Any] = {"realize_reads_threshold": 1000, "realize_opcount_threshold": 1000}
"""Inductor is to work an update out twice rather than store it between the sum over it and its use: storing means new
memory at each step. Without sums the plain setting is faster."""


@functools.cache
def can_compile(device_type: str) -> bool:
    """Whether this machine has what ``torch.compile`` needs; warns once where it has not."""
    if device_type == "cpu":
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("cl")
        if compiler is None:
            warnings.warn("no C++ compiler found: optimizer steps run uncompiled (slower); install g++", stacklevel=2)
        return compiler is not None
    return device_type == "cuda" and sys.platform == "linux"
