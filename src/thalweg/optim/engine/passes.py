"""One pass over memory: a run of transforms over a list of tensors, with nothing left to decide inside.

The same function runs eagerly and compiled. A chain becomes one pass, unless a matrix transform, or a sum over shards, stands in
between: then it becomes several, and the engine does what is needed in between.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from thalweg.optim.engine.hyperparameters import floats_like, is_dynamic, plain
from thalweg.optim.engine.random import random_bits, round_stochastically, standard_normal, stream_key
from thalweg.optim.engine.transform import Chain, Transform, TransformType

LR, WEIGHT_DECAY = 0, 1  # places in the list of values, before the transforms' own

GRADIENT = "gradient"
"""Key beside a parameter's state under which passes find the gradient that the step started from, where a sum needs it."""

SCALE = "scale"
"""Key beside a parameter's state under which the pass after a matrix transform finds numbers that rows are to be multiplied by."""

FRESH = (GRADIENT, SCALE)
"""Such keys: what lies under them is new at each step."""

Grid = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Where a local tensor lies in its whole: local shape, offsets, shape of the whole."""

Done = tuple[list[Tensor], list[tuple[Tensor, ...]]]
"""What a pass hands on: updates and sums, both empty if it writes the parameters."""


@dataclass(frozen=True)
class BoundTransform:
    """A transform with the places of its values: ``dynamic`` holds (name, first place, count or None for a plain number).

    ``stream`` is the place of its random key among a parameter's keys; 0, the stream of rounding, if it draws nothing.
    """

    type: TransformType
    state_keys: tuple[str, ...]
    dynamic: tuple[tuple[str, int, int | None], ...]
    static: tuple[tuple[str, Any], ...]
    stream: int = 0

    @property
    def sums(self) -> tuple[Callable[..., Any], ...]:
        """What must be summed over whole tensors, one after the other; nothing for other kinds, and where it is switched off."""
        switch = self.type.switch
        return () if switch is not None and not dict(self.static)[switch] else self.type.sums

    def keywords(self, values: Any) -> dict[str, Any]:
        """Keyword arguments for the update function, from the pass's values (floats, or a vector of float64)."""
        found = dict(self.static)
        for name, place, count in self.dynamic:
            found[name] = values[place] if count is None else tuple(values[place + i] for i in range(count))
        if "lr" in self.type.needs:
            found["lr"] = values[LR]
        return found


@dataclass(frozen=True)
class Pass:
    """What one pass does: where it enters, the transforms, and how it leaves.

    ``leave`` is "apply" (write the parameters), "matrix" (return the updates, in ``leave_dtype``) or "sums" (return the updates and
    the local sums that the next pass's first transform needs). A pass that enters with "sums" has those of the first ``arrived``
    functions of its first transform's.
    """

    transforms: tuple[BoundTransform, ...]
    enter: Literal["gradient", "update", "sums"]
    leave: Literal["apply", "matrix", "sums"]
    maximize: bool = False
    decay: Literal["none", "before", "after"] = "none"
    stochastic_rounding: bool = False
    leave_dtype: torch.dtype | None = None
    arrived: int = 0

    @property
    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        return self.stochastic_rounding or any(t.stream for t in self.transforms)

    @property
    def has_sums(self) -> bool:
        """Whether sums over whole tensors are taken or used."""
        return any(t.sums for t in self.transforms)

    @property
    def sees_each_number_alone(self) -> bool:
        """Whether tensors may be joined or cut anywhere without changing the result."""
        return not (self.draws or self.has_sums or any("rows" in t.type.needs for t in self.transforms))

    @property
    def adds_to_sums(self) -> bool:
        """Whether the sums that it leaves belong to the transform whose first sums have arrived."""
        return self.leave == "sums" and self.enter == "sums" and len(self.transforms) == 1

    @property
    def ends_here(self) -> bool:
        """Whether the pass takes nothing from a pass before it on other processes, and hands nothing on."""
        return self.leave == "apply" and self.enter != "sums"

    def multiple(self, values: Sequence[float]) -> tuple[float, float] | None:
        """``(a, b)`` where the pass does no more than ``param <- a * param - b * update``; None where it does."""
        if self.leave != "apply" or self.draws or not all(t.type.multiplies for t in self.transforms):
            return None
        factor = values[LR]
        for transform in self.transforms:
            factor = transform.type.update(factor, None, {}, **transform.keywords(values))
        keep = 1 - values[LR] * values[WEIGHT_DECAY]
        return {"none": (1.0, factor), "before": (keep, factor), "after": (keep, keep * factor)}[self.decay]

    def __call__(
        self,
        params: Sequence[Tensor],
        updates: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        values: Any,
        keys: Any,
        sums: Sequence[Sequence[Tensor]] | None,
        grids: Sequence[Grid],
    ) -> Done:
        """Change parameters and states in place; return the updates and the sums to hand on, if it leaves any."""
        out: list[Tensor] = []
        out_sums: list[tuple[Tensor, ...]] = []
        for i, param in enumerate(params):
            numbers = Numbers(values, None if keys is None else keys[i], None if sums is None else sums[i], grids[i])
            new = self.one(param, updates[i], states[i], numbers)
            for key, value in new.state.items():
                states[i][key].copy_(value)
            if new.param is not None:
                param.copy_(new.param)
            if new.update is not None:
                out.append(new.update)
            if new.sums is not None:
                out_sums.append(new.sums)
        return out, out_sums

    def one(self, param: Tensor, update: Tensor, state: Mapping[str, Tensor], numbers: Numbers) -> _New:
        """The pass for one parameter, as a function: nothing is changed in place."""
        x = param.to(compute_dtype(param.dtype))
        u = update.to(x.dtype)
        if self.maximize and self.enter == "gradient":
            u = -u
        if self.enter == "update" and SCALE in state:
            u = u * state[SCALE].to(x.dtype)
        new: dict[str, Tensor] = {}
        for k, bound in enumerate(self.transforms):
            arrived, totals = (self.arrived, tuple(numbers.sums or ())) if k == 0 and self.enter == "sums" else (0, ())
            if self.leave == "sums" and k == len(self.transforms) - 1:
                return _New(None, u, new, self._sums(bound, arrived, totals, u, x, state, numbers.values))
            for place in range(arrived, len(bound.sums)):
                totals += self._sums(bound, place, totals, u, x, state, numbers.values)
            u, changed = _update(bound, u, x, state, totals if bound.sums else None, numbers)
            new |= changed
        if self.leave == "apply":
            return _New(self._apply(x, u, param.dtype, numbers), None, new, None)
        return _New(None, u if self.leave_dtype is None else u.to(self.leave_dtype), new, None)

    def _sums(
        self,
        bound: BoundTransform,
        place: int,
        totals: tuple[Tensor, ...],
        u: Tensor,
        x: Tensor,
        state: Mapping[str, Tensor],
        values: Any,
    ) -> tuple[Tensor, ...]:
        """What function number ``place`` of the transform's sums over this tensor."""
        arguments: tuple[Any, ...] = (u, x)
        if place:
            arguments = (u, x, totals)
        elif bound.type.sums_of_gradient:
            gradient = state[GRADIENT].to(x.dtype)
            arguments = (u, x, -gradient if self.maximize else gradient)
        wanted = bound.type.sum_hypers[place]
        given = bound.keywords(values) if wanted else {}
        return tuple(bound.sums[place](*arguments, **{name: given[name] for name in wanted}))

    def _apply(self, x: Tensor, u: Tensor, dtype: torch.dtype, numbers: Numbers) -> Tensor:
        lr = numbers.values[LR]
        keep = 1 - lr * numbers.values[WEIGHT_DECAY]
        if self.decay == "before":
            x = x * keep
        x = x - lr * u
        if self.decay == "after":
            x = x * keep
        if self.stochastic_rounding and dtype is torch.bfloat16:
            x = round_stochastically(x, dtype, random_bits(_positions(numbers.grid, x.device), numbers.keys[0]))
        return x


@dataclass(frozen=True)
class Stacked:
    """A pass over stacks: the first dimension of every tensor counts parameters of one shape.

    Stacks are copies anyway, so it returns new ones instead of changing them: the parameters and, in the order of ``keys``, the state.
    """

    inner: Pass
    keys: tuple[str, ...]

    @property
    def has_sums(self) -> bool:
        """As the pass's."""
        return self.inner.has_sums

    def __call__(
        self,
        params: Sequence[Tensor],
        updates: Sequence[Tensor],
        states: Sequence[dict[str, Tensor]],
        values: Any,
        keys: Any,
        sums: Any,
        grids: Sequence[Grid],
    ) -> Done:
        """New stacks of the parameters and their state, as updates."""
        new: list[Tensor] = []
        for param, update, state, grid in zip(params, updates, states, grids, strict=True):
            new += torch.vmap(functools.partial(self._one, Numbers(values, None, None, grid)))(param, update, state)
        return new, []

    def _one(self, numbers: Numbers, param: Tensor, update: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, ...]:
        new = self.inner.one(param, update, state, numbers)
        assert new.param is not None
        return new.param.to(param.dtype), *(new.state.get(key, state[key]).to(state[key].dtype) for key in self.keys)


@dataclass
class Call:
    """One run of a pass: what it works on, in the order of its arguments.

    ``notes`` are what was found out about ``params`` and ``states`` in earlier steps, in which they were the same.
    """

    one_pass: Pass | Stacked
    params: Sequence[Tensor]
    updates: Sequence[Tensor]
    states: Sequence[dict[str, Tensor]]
    values: Sequence[float]
    keys: Sequence[tuple[int, ...]] | None
    sums: Sequence[Sequence[Tensor]] | None
    grids: Sequence[Grid]
    notes: dict[Any, Any] = field(default_factory=dict)

    def run(self) -> Done:
        """Run the pass eagerly."""
        return self.one_pass(self.params, self.updates, self.states, self.values, self.keys, self.sums, self.grids)


class Numbers(NamedTuple):
    """What a pass knows of one parameter beside its tensors."""

    values: Any
    keys: Any
    sums: Any
    grid: Grid


class _New(NamedTuple):
    """What a pass makes of one parameter: None for what it doesn't."""

    param: Tensor | None
    update: Tensor | None
    state: dict[str, Tensor]
    sums: tuple[Tensor, ...] | None


def _update(
    bound: BoundTransform, u: Tensor, x: Tensor, state: Mapping[str, Tensor], sums: Any, numbers: Numbers
) -> tuple[Tensor, dict[str, Tensor]]:
    """The next update, and the state that changed."""
    keywords = bound.keywords(numbers.values)
    grid = numbers.grid
    if "normal" in bound.type.needs:
        key = numbers.keys[bound.stream]
        keywords["normal"] = lambda: standard_normal(_positions(grid, x.device), key).to(x.dtype)
    if "rows" in bound.type.needs:
        first = grid[1][0]
        keywords["rows"] = slice(first, first + grid[0][0])
    old = {name: state[key].to(x.dtype) for name, key in zip(bound.type.state, bound.state_keys, strict=True)}
    new = dict(old)
    arguments = (u, x, new, sums) if bound.type.sums else (u, x, new)
    u = bound.type.update(*arguments, **keywords)
    names = zip(bound.type.state, bound.state_keys, strict=True)
    return u, {key: new[name] for name, key in names if new[name] is not old[name]}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Arithmetic is done in float32 at least, whatever the parameters are stored in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _positions(grid: Grid, device: torch.device) -> Tensor:
    """Every element's number in the whole tensor (int64, local shape), so that shards draw what the whole would."""
    local, offsets, whole = grid
    index = torch.zeros(local, dtype=torch.int64, device=device)
    stride = 1
    for dim in range(len(local) - 1, -1, -1):
        shape = [1] * len(local)
        shape[dim] = local[dim]
        index = index + (torch.arange(local[dim], device=device) + offsets[dim]).view(shape) * stride
        stride *= whole[dim]
    return index


def hypers_of(transform: Transform, group: Mapping[str, Any]) -> dict[str, Any]:
    """The transform's hyper-parameters as plain values, looked up in a parameter group."""
    defaults = transform.type.defaults
    return {name: floats_like(defaults[name], plain(group[transform.group_name(name)])) for name, _ in transform.hypers}


def bind(
    chain: Chain, group: dict[str, Any], step: int, gradient_norm: float = 0.0
) -> tuple[list[BoundTransform], list[float]]:
    """Look the chain's hyper-parameters up in a parameter group: the bound transforms, and the list of values they point into."""
    values: list[float] = [plain(group["lr"]), plain(group["weight_decay"])]
    bound: list[BoundTransform] = []
    for transform, state_keys in zip(chain.transforms, chain.state_names, strict=True):
        kind = transform.type
        hypers = hypers_of(transform, group)
        prepared = {} if kind.prepare is None else {k: float(v) for k, v in kind.prepare(step, **hypers).items()}
        if "gradient_norm" in kind.needs:
            prepared["gradient_norm"] = gradient_norm
        dynamic: list[tuple[str, int, int | None]] = []
        static = []
        for name, value in {**hypers, **prepared}.items():
            if kind.kind == "matrix" or not is_dynamic(value):
                static.append((name, value))
            elif isinstance(value, tuple):
                dynamic.append((name, len(values), len(value)))
                values.extend(value)
            else:
                dynamic.append((name, len(values), None))
                values.append(value)
        if "step" in kind.needs and "step" not in prepared:
            static.append(("step", step))
        stream = 1 + sum(b.stream > 0 for b in bound) if "normal" in kind.needs else 0
        bound.append(BoundTransform(kind, state_keys, tuple(dynamic), tuple(static), stream))
    return bound, values


def split(bound: Sequence[BoundTransform], apply: Pass, sharded: bool) -> list[Pass | tuple[BoundTransform, ...]]:
    """The passes of a chain, with its matrix transforms (as they are, those that follow each other together) in between.

    Args:
        bound: the chain's transforms.
        apply: the last pass's way of leaving (``maximize``, ``decay``, rounding); its transforms are filled in here.
        sharded: whether sums must be added up over processes before they are used.
    """
    program: list[Pass | tuple[BoundTransform, ...]] = []
    run: list[BoundTransform] = []
    entry = apply
    for transform in bound:
        if transform.type.kind == "matrix":
            before = program[-1] if program and not run else None
            if isinstance(before, tuple):
                program[-1] = (*before, transform)
                continue
            program += [replace(entry, transforms=tuple(run), leave="matrix"), (transform,)]
            run, entry = [], replace(apply, enter="update")
        elif transform.sums and sharded:
            for arrived in range(len(transform.sums)):
                program.append(replace(entry, transforms=(*run, transform), leave="sums"))
                run, entry = [], replace(apply, enter="sums", arrived=arrived + 1)
            run = [transform]
        else:
            run.append(transform)
    program.append(replace(entry, transforms=tuple(run)))
    return program


def random_keys(
    bound: Sequence[BoundTransform], step: int, numbers: Sequence[int], rounding: bool
) -> list[tuple[int, ...]] | None:
    """For every parameter, by its number, one key for rounding and one for each transform that draws: independent streams.

    ``None`` if nothing is drawn.
    """
    seeds = [int(dict(b.static).get("seed", 0)) for b in bound if b.stream]
    if not seeds and not rounding:
        return None
    streams = list(enumerate([seeds[0] if seeds else 0, *seeds]))
    return [tuple(stream_key(seed, step, number, place) for place, seed in streams) for number in numbers]


def memory_words(chain: Chain) -> int:
    """Words a parameter that a step of ``chain`` must move: gradient in, parameter and state in and out. What matrix transforms
    keep has shapes of its own and isn't counted."""
    return 3 + 2 * len(chain.state_keys(of_matrices=False))
