"""The one class that runs chains of transforms as a ``torch.optim.Optimizer``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from thalweg.linalg.autocast import autocast_off
from thalweg.optim.engine.buckets import Bucket
from thalweg.optim.engine.compiling import Compiler, Program
from thalweg.optim.engine.gradient_norm import gradient_norm
from thalweg.optim.engine.hyperparameters import check_kind, own_number
from thalweg.optim.engine.loading import loadable
from thalweg.optim.engine.matrices import View, state_layout
from thalweg.optim.engine.matrix_step import map_matrices, written_at_once
from thalweg.optim.engine.passes import (
    GRADIENT,
    SCALE,
    BoundTransform,
    Call,
    Pass,
    bind,
    hypers_of,
    random_keys,
    split,
)
from thalweg.optim.engine.sharding import local, sharding_of, zeros_beside
from thalweg.optim.engine.transform import Chain, Transform

Params = nn.Module | Iterable[Any]
Nonfinite = Literal["propagate", "skip", "raise"]


class EngineOptions(TypedDict, total=False):
    """Keyword arguments that every optimizer of this package takes, beside its own.

    Attributes:
        maximize: go up instead of down.
        nonfinite: what NaN or infinite gradients do. ``"propagate"``: they reach the parameters, where they are seen;
            ``"skip"``: the step changes nothing; ``"raise"``: a ``FloatingPointError`` that names the parameter.
        decay: decoupled weight decay ``p <- (1 - lr * weight_decay) p`` before the step (on the old weights) or ``"after"`` it.
        compile: one compiled pass over memory instead of an operator after the other: C++ loops on a CPU, elsewhere (and for rules
            that aren't loops over elements) Inductor, the compiler behind ``torch.compile``; ``None``: where the parameters are many
            enough to pay for compiling.
        state_dtype: dtype of the state; ``None``: float32 for bfloat16 and float16 parameters, the parameter's own otherwise.
        stochastic_rounding: round bfloat16 parameters up or down at random, right in the mean, instead of to the nearest.
        before: a transform or chain put before the optimizer's own, such as ``gradient_noise()``.

    Example:
        >>> from thalweg.optim import AdamW, EngineOptions
        >>> options: EngineOptions = {"maximize": True, "nonfinite": "skip"}
        >>> optimizer = AdamW(nn.Linear(2, 1), **options)
        >>> optimizer.param_groups[0]["maximize"]
        True
    """

    maximize: bool
    nonfinite: Nonfinite
    decay: Literal["before", "after"]
    compile: bool | None
    state_dtype: torch.dtype | None
    stochastic_rounding: bool
    before: Chain | Transform | None


@dataclass
class _Settings:
    """Engine options that hold for the whole optimizer and go with copies and pickles of it."""

    nonfinite: Nonfinite = "propagate"
    decay: Literal["before", "after"] = "before"
    compile: bool | None = None
    state_dtype: torch.dtype | None = None
    stochastic_rounding: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("nonfinite", ("propagate", "skip", "raise")), ("decay", ("before", "after"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"Invalid {name}: {getattr(self, name)!r} (choose from {', '.join(choices)})")
        check_kind(False, self.stochastic_rounding, "stochastic_rounding")
        given = self.state_dtype
        if given is not None and not (isinstance(given, torch.dtype) and given.is_floating_point):
            raise ValueError(
                f"Invalid state_dtype: {given!r} (must be None or a floating-point dtype, as torch.float32)"
            )


class ChainedOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` whose update rule is a chain of transforms.

    One step, for every parameter p with gradient g:  ``u = chain(g)``,  ``p <- (1 - lr * weight_decay) * p - lr * u``.
    A chain that claims ``weight_decay`` for itself (coupled decay, LAMB) switches the engine's decay off.

    Subclasses name their chain and defaults in ``__init__``; :class:`Chained` is the public, generic one.

    Args:
        params: parameters, named parameters, parameter groups, or a module (see :meth:`groups_for`).
        rules: a chain, or several by name; then each group says which by its key ``"rule"``, the first being the default.
        lr: learning rate, a float or a one-element Tensor.
        weight_decay: decoupled weight decay; see ``decay`` in :class:`EngineOptions`.
        rule_defaults: for a rule's groups, what they take where they say nothing: ``{"adamw": {"lr": 3e-4}}``.
        options: see :class:`EngineOptions`.

    Raises:
        TypeError: an unknown option.
        ValueError: a value out of range; ``weight_decay``, or ``decay="after"``, though the chain decays by itself.

    Example:
        >>> from thalweg.optim import ChainedOptimizer, lion_direction
        >>> class FastForgettingLion(ChainedOptimizer):
        ...     def __init__(self, params, lr=1e-4, betas=(0.9, 0.95), **options):
        ...         super().__init__(params, lion_direction(betas=betas), lr=lr, **options)
        >>> FastForgettingLion(nn.Linear(2, 1)).param_groups[0]["betas"]
        (0.9, 0.95)
    """

    _gradient_norm = 0.0  # of this step, where a transform asks for it

    def __init__(
        self,
        params: Params,
        rules: Chain | Transform | Mapping[str, Chain | Transform],
        *,
        lr: float | Tensor,
        weight_decay: float = 0.0,
        maximize: bool = False,
        before: Chain | Transform | None = None,
        rule_defaults: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        named = rules if isinstance(rules, Mapping) else {"": rules}
        self.rules = {
            name: Chain.of(rule) if before is None else Chain.of(before) >> rule for name, rule in named.items()
        }
        unknown = set(options) - set(_Settings.__dataclass_fields__)
        if unknown:
            raise TypeError(f"{type(self).__name__} got an unexpected option {sorted(unknown)[0]!r}")
        self._settings = _Settings(**options)
        self._compiler = Compiler(self._settings.compile)
        self._kept: dict[Any, Bucket] = {}
        self._rule_defaults = {name: dict(values) for name, values in (rule_defaults or {}).items()}
        self._check_decay(weight_decay)
        first = next(iter(self.rules.values()))
        defaults = {"lr": lr, **first.hypers, "maximize": maximize}
        defaults.setdefault("weight_decay", weight_decay)
        if isinstance(params, nn.Module):
            params = self.groups_for(params)
        super().__init__(params, defaults)

    needs_closure: ClassVar[bool] = False
    """Whether ``step`` can't do without a closure that evaluates the loss; a race then passes a :class:`~thalweg.autodiff.Closure`."""

    @classmethod
    def groups_for(cls, model: nn.Module) -> list[dict[str, Any]]:
        """Parameter groups when a module is given: matrices as they are; biases, norm gains and scalars without weight decay."""
        named = list(model.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [(name, p) for name, p in named if p.ndim >= 2]},
            {"params": [(name, p) for name, p in named if p.ndim < 2], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def _check_decay(self, weight_decay: float) -> None:
        if not any("weight_decay" in rule.hypers for rule in self.rules.values()):
            return
        if weight_decay:
            raise ValueError(
                "the chain decays the weights by itself: set weight_decay=0 here, or rename its own, "
                "as in add_decayed_weights(...).rename(weight_decay='l2')"
            )
        if self._settings.decay == "after" and all("weight_decay" in rule.hypers for rule in self.rules.values()):
            raise ValueError("decay='after' is for decoupled weight decay, but this chain decays the weights by itself")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; keys that it lacks take the defaults of its rule."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        param_group = dict(param_group)  # a caller may give the same group to several optimizers
        name = param_group.get("rule", next(iter(self.rules)))
        if name not in self.rules:
            raise ValueError(f"unknown rule {name!r} in a parameter group (choose from {', '.join(self.rules)})")
        rule = self.rules[name]
        if len(self.rules) > 1:
            param_group["rule"] = name
        for key, value in {**rule.hypers, **self._rule_defaults.get(name, {})}.items():
            param_group.setdefault(key, value)
        foreign = set(self.defaults) - set(param_group) - {"lr", "weight_decay", "maximize"}
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for key in foreign:
            del group[key]  # another rule's, filled in as a default
        group |= {key: own_number(value) for key, value in group.items() if key not in ("params", "param_names")}
        try:
            rule.check(group)
            for param in group["params"]:
                _check_param(param, rule, group)
        except Exception:
            self.param_groups.pop()
            raise

    def rule_of(self, group: dict[str, Any]) -> Chain:
        """The chain that a parameter group follows."""
        return self.rules[group.get("rule", next(iter(self.rules)))]

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """As torch's, which names every step in profiles and calls hooks; left out where there are neither, for naming alone takes a
        tenth of a millisecond or two when the caches are cold."""
        watched = torch.optim.Optimizer.profile_hook_step(func)

        @functools.wraps(func)
        def step(self: ChainedOptimizer, *args: Any, **kwargs: Any) -> Any:
            return (watched if self._is_watched() else func)(self, *args, **kwargs)

        return step

    def _is_watched(self) -> bool:
        """Whether a profiler runs, or anything is to be called before or after a step."""
        return bool(
            torch.autograd.profiler._is_profiler_enabled
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimization step over all parameters that have a gradient; returns the closure's loss, if one is given.

        The closure runs under the caller's ``torch.autocast``, if there is one; the rule does not.
        """
        loss = self._evaluate(closure)
        with autocast_off(p for group in self.param_groups for p in group["params"]):
            self._follow_rules()
        return loss

    def _follow_rules(self) -> None:
        """The step itself, with the gradients as they are."""
        gradients = [[p.grad for p in group["params"]] for group in self.param_groups]
        self._check_gradients(gradients)
        if self._settings.nonfinite != "propagate" and self._has_nonfinite():
            return
        params = [p for group in self.param_groups for p in group["params"]]
        self._compiler.count(params)
        if any(rule.needs_gradient_norm for rule in self.rules.values()):
            self._gradient_norm = gradient_norm(params)
        programs = []
        first = 0
        for index, (group, own) in enumerate(zip(self.param_groups, gradients, strict=True)):
            self._look_at_group(group)
            programs += [self._program(group, *bucket) for bucket in self._buckets(index, own, first)]
            first += len(group["params"])
        self._compiler.run_programs(programs)

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        """What a step starts with: the gradients, if a closure gives them. Rules that need more than gradients get it here."""
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def _look_at_group(self, group: dict[str, Any]) -> None:
        """For rules that must see a whole group's gradients before any of its parameters moves."""

    def _check_gradients(self, gradients: list[list[Tensor | None]]) -> None:
        """Raise before anything has changed."""
        for group, own in zip(self.param_groups, gradients, strict=True):
            params = group["params"]
            for layout, dtype in {(g.layout, p.dtype) for g, p in zip(own, params, strict=True) if g is not None}:
                if layout is not torch.strided:
                    raise RuntimeError(
                        f"{type(self).__name__} does not support sparse gradients (make the embedding dense)"
                    )
                if not (dtype.is_floating_point or dtype.is_complex):
                    shape = next(tuple(p.shape) for p in params if p.dtype is dtype and p.grad is not None)
                    raise RuntimeError(
                        f"can't optimize a parameter of dtype {dtype} (shape {shape}): "
                        "clear its gradient, or give it a floating-point dtype"
                    )

    def _counts_steps(self, chain: Chain) -> bool:
        """Whether the rule depends on the step count: by itself, or because rounding draws fresh numbers at each step."""
        return chain.needs_step or self._settings.stochastic_rounding

    def _buckets(
        self, index: int, gradients: list[Tensor | None], first: int
    ) -> Iterator[tuple[Bucket, list[Tensor], int]]:
        """The buckets of a parameter group, with their gradients and step counts."""
        group = self.param_groups[index]
        chain = self.rule_of(group)
        counts = self._counts_steps(chain)
        kept = self._kept.get((index, chain))
        if kept is not None and all(g is not None for g in gradients) and kept.fits(group["params"], self.state):
            steps = {state["step"] for state in kept.states} if counts else {0}
            if len(steps) == 1:
                step = int(steps.pop()) + counts
                for state in kept.states if counts else ():
                    state["step"] = step
                yield kept, gradients, step  # type: ignore[misc]
                return
        names, matrix_names = chain.state_keys(of_matrices=False), chain.state_keys(of_matrices=True)
        members: dict[Any, list[int]] = {}
        for place, (param, gradient) in enumerate(zip(group["params"], gradients, strict=True)):
            if gradient is None:
                continue
            state = self.state[param]
            if not state:
                self._init_state(param, state, chain, group)
            step = 0
            if counts:
                step = state["step"] = int(state["step"]) + 1
            members.setdefault((param.dtype, param.device, sharding_of(param), step), []).append(place)
        for (*_, step), places in members.items():
            params = [group["params"][place] for place in places]
            numbers = [first + place for place in places]
            bucket = Bucket(params, [self.state[p] for p in params], names, numbers, matrix_names)
            if len(places) == len(gradients):
                self._kept[index, chain] = bucket
            yield bucket, [gradients[place] for place in places], step  # type: ignore[misc]

    def _init_state(self, param: Tensor, state: dict[str, Any], chain: Chain, group: dict[str, Any]) -> None:
        dtype = self._settings.state_dtype
        if dtype is None or param.is_complex():
            dtype = torch.float32 if param.dtype in (torch.bfloat16, torch.float16) else param.dtype
        if self._counts_steps(chain):
            state["step"] = 0
        for transform, keys in zip(chain, chain.state_names, strict=True):
            if transform.type.kind != "matrix":
                for key in keys:
                    state[key] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
                continue
            view = View.of(group, transform.type.vectors)
            layout = state_layout(transform, param.shape, hypers_of(transform, group), view)
            for key, (shape, own) in zip(keys, layout.values(), strict=True):
                state[key] = zeros_beside(param, shape, own or dtype)

    def _program(self, group: dict[str, Any], bucket: Bucket, gradients: list[Tensor], step: int) -> Program:
        """The step for one bucket, pass by pass: yields calls, takes what they hand on, and does what lies in between."""
        chain = self.rule_of(group)
        bound, values = bind(chain, group, step, self._gradient_norm)
        program = split(bound, self._last_pass(group, chain), bucket.sharding is not None)
        keys = random_keys(bound, step, bucket.numbers, self._settings.stochastic_rounding)
        params, states, grids = bucket.locals, bucket.local_states, bucket.grids
        updates = bucket.plain_gradients(gradients)
        if chain.needs_gradient:
            states = [{**state, GRADIENT: gradient} for state, gradient in zip(states, updates, strict=True)]
        sums: Any = None
        scales: Sequence[Tensor | None] = ()
        for place, part in enumerate(program):
            if isinstance(part, Pass):
                one_pass = _for_matrix(part, program[place + 1], params) if part.leave == "matrix" else part
                with_scales = _with_scales(states, scales)
                updates, new_sums = yield Call(
                    one_pass, params, updates, with_scales, values, keys, sums or None, grids, bucket.notes
                )
                scales = ()
                if new_sums:
                    assert bucket.sharding is not None
                    new_sums = bucket.sharding.add_up(new_sums, grids)
                    if part.adds_to_sums:
                        new_sums = [(*old, *new) for old, new in zip(sums, new_sums, strict=True)]
                sums = new_sums
            else:
                view = View.of(group, part[0].type.vectors)
                after = program[place + 1]
                sink = written_at_once(part, after, view, bucket, values) if isinstance(after, Pass) else None
                updates, scales = yield from map_matrices(part, view, bucket, updates, sink)
                if sink is not None:
                    return

    def _last_pass(self, group: dict[str, Any], chain: Chain) -> Pass:
        decays = "weight_decay" not in chain.hypers and float(group["weight_decay"]) != 0.0
        return Pass(
            (),
            "gradient",
            "apply",
            maximize=bool(group["maximize"]),
            decay=self._settings.decay if decays else "none",
            stochastic_rounding=self._settings.stochastic_rounding,
        )

    def _has_nonfinite(self) -> bool:
        """Whether any gradient on any process holds NaN or infinity; raises instead if so asked."""
        found = False
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names") or [f"{i} of group {number}" for i in range(len(group["params"]))]
            for name, param in zip(names, group["params"], strict=True):
                if param.grad is None:
                    continue
                bad = ~_all_finite(local(param.grad))
                sharding = sharding_of(param)
                bad = bad if sharding is None else sharding.any_true(bad)
                if bool(bad):
                    found = True
                    if self._settings.nonfinite == "raise":
                        raise FloatingPointError(f"the gradient of parameter {name} is not finite")
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As ``torch.optim.Optimizer.load_state_dict``, but state keeps the dtype it was saved in.

        (torch casts floating-point state to the parameter's dtype, which ruins float32 state of bfloat16 parameters.)

        Raises:
            ValueError: the state of an optimizer with other rules; then nothing has changed.
        """
        seen: list[dict[str, Any]] = []

        def look(_: Any, given: dict[str, Any]) -> dict[str, Any]:
            seen.append(loadable(given, self.param_groups, self.rules, type(self).__name__))
            return seen[0]

        handle = self.register_load_state_dict_pre_hook(look)  # the last: it sees what the others make of the dict
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        saved = seen[0]
        for group in self.param_groups:
            if self._counts_steps(self.rule_of(group)):  # to round at random, say, where what was saved didn't
                for param in group["params"]:
                    if self.state.get(param):
                        self.state[param].setdefault("step", 0)
        ids = [i for group in saved["param_groups"] for i in group["params"]]
        params = [p for group in self.param_groups for p in group["params"]]
        for i, param in zip(ids, params, strict=True):
            for key, value in saved["state"].get(i, {}).items():
                kept = self.state[param].get(key)
                if not (isinstance(value, Tensor) and isinstance(kept, Tensor)):
                    continue
                if kept.dtype != value.dtype:
                    kept = value.to(device=kept.device)
                # A tensor shared with the given dict would go on changing with the optimizer that it came from.
                self.state[param][key] = kept.clone() if _share_storage(kept, value) else kept

    def __getstate__(self) -> dict[str, Any]:
        kept = ("rules", "_rule_defaults", "_settings")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in kept}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_compiler" not in self.__dict__:
            self._compiler = Compiler(self._settings.compile)
            self._kept = {}
        for group in self.param_groups:  # a checkpoint may be older than a hyper-parameter, or from a class without
            for key, value in {"maximize": False, "weight_decay": 0.0, **self.rule_of(group).hypers}.items():
                group.setdefault(key, value)

    def __repr__(self) -> str:
        rules = "\n".join(f"  {name + ': ' if name else ''}{chain!r}" for name, chain in self.rules.items())
        return f"{super().__repr__()}\nrules:\n{rules}\noptions: {asdict(self._settings)}"


class Chained(ChainedOptimizer):
    """An optimizer made of any chain of transforms.

    Args:
        params: parameters, named parameters, parameter groups, or a module.
        chain: a transform, or several joined by ``>>``.
        lr: learning rate.
        weight_decay: decoupled weight decay; not with a chain that decays by itself.
        options: see :class:`EngineOptions`.

    Raises:
        ValueError: a hyper-parameter out of range; two transforms that claim one name with different values; ``weight_decay``
            given though the chain claims it.

    Example:
        >>> import torch
        >>> from thalweg.optim import Chained, gradient_noise, lion_direction
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = Chained(model, gradient_noise(eta=0.01) >> lion_direction(), lr=1e-3)
        >>> model(torch.ones(2, 3)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        chain: Chain | Transform,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(params, Chain.of(chain), lr=lr, weight_decay=weight_decay, **options)


def _check_param(param: Tensor, rule: Chain, group: dict[str, Any]) -> None:
    if not _can_move(param):
        return  # quantized weights beside trained adapters: torch keeps them frozen, and without gradient they are passed over
    if param.is_complex() and (rule.has_matrix or rule.has_rows):
        kind = "a matrix rule" if rule.has_matrix else "a rule that works on rows"
        raise ValueError(f"{kind} can't take the complex parameter of shape {tuple(param.shape)}")
    for transform in rule:
        if transform.type.kind == "matrix":
            view = View.of(group, transform.type.vectors)
            state_layout(transform, param.shape, hypers_of(transform, group), view)


def _can_move(param: Tensor) -> bool:
    return param.is_floating_point() or param.is_complex()


def _with_scales(states: list[dict[str, Tensor]], scales: Sequence[Tensor | None]) -> list[dict[str, Tensor]]:
    """States with the rows' scales beside them that a matrix transform has left."""
    if all(scale is None for scale in scales):
        return states
    return [s if c is None else {**s, SCALE: c} for s, c in zip(states, scales, strict=True)]


def _for_matrix(part: Pass, after: Pass | tuple[BoundTransform, ...], params: Sequence[Tensor]) -> Pass:
    """``part``, told the dtype that the matrix transform after it wants."""
    assert isinstance(after, tuple)
    transform = after[0]
    if transform.type.input_dtype is None:
        return part
    wanted = transform.type.input_dtype(params[0].device, params[0].dtype, **dict(transform.static))
    return replace(part, leave_dtype=wanted)


def _all_finite(tensor: Tensor) -> Tensor:
    if tensor.is_complex() or tensor.dtype is torch.float64:
        return torch.isfinite(tensor).all()
    # One sum needs no temporary, and in float64 a sum of finite narrower numbers stays finite.
    return torch.isfinite(tensor.sum(dtype=torch.float64))


def _share_storage(a: Tensor, b: Tensor) -> bool:
    return local(a).untyped_storage().data_ptr() == local(b).untyped_storage().data_ptr()
