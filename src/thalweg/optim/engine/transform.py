"""Transforms: one idea each, turning a gradient-like tensor into the next; ``a() >> b()`` chains them.

There are three kinds, and the kind says what the engine may do:

- :func:`elementwise` sees each number alone. The engine may run it on shards and fuse it with its neighbours.
- :func:`layerwise` also needs sums over the whole tensor (norms), or over each of its rows. The engine adds the shards' sums up.
- :func:`matrix` gets stacks ``(batch, m, n)`` of equal shape. The engine flattens convolutions and gathers shards.

A transform is declared by decorating its update function. Keyword-only arguments with a default are its hyper-parameters; those
without one are filled in by the engine (see :func:`elementwise`)::

    @elementwise(state=("exp_avg",))
    def lion_direction(update, param, state, *, betas=(0.9, 0.99)): ...

Floats (and tuples of floats) may change at every step; numbers that the code branches on must be declared as bool, int or str.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from thalweg.optim.engine.hyperparameters import check_hyperparameter, check_kind, plain

RESERVED = frozenset({"params", "param_names", "lr", "initial_lr", "rule", "maximize", "batched", "split"})
"""Keys of parameter groups with a meaning of their own."""

GIVEN = frozenset({"lr", "normal", "rows", "gradient_norm"})
"""Keyword-only arguments of an update function that the engine fills in."""

GIVEN_TO_MATRICES = frozenset({"step"})
"""Those of a matrix transform."""

StateShape = Callable[..., tuple[int, ...]]
Check = Callable[..., None]
MatrixState = Mapping[str, StateShape | tuple[StateShape, torch.dtype]]
"""State of one m x n matrix by name: ``shape(m, n, **hypers)``, or that and a dtype."""


class TransformType:
    """A declared transform; calling it with hyper-parameters gives a :class:`Transform`."""

    def __init__(
        self,
        update: Callable[..., Any],
        kind: str,
        state: tuple[str, ...] | MatrixState = (),
        sums: Callable[..., Any] | Sequence[Callable[..., Any]] = (),
        prepare: Callable[..., dict[str, float]] | None = None,
        input_dtype: Callable[..., Any] | None = None,
        switch: str | None = None,
        vectors: bool = False,
        check: Check | None = None,
        last: bool = False,
        multiplies: bool = False,
        alone: bool = False,
    ) -> None:
        parameters = inspect.signature(update).parameters.values()
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.update, self.kind, self.prepare = update, kind, prepare
        self.sums: tuple[Callable[..., Any], ...] = (sums,) if callable(sums) else tuple(sums)
        self.state: tuple[str, ...] = tuple(state)
        self.matrix_state = dict(state) if isinstance(state, Mapping) else {}
        self.input_dtype, self.switch, self.vectors, self.last = input_dtype, switch, vectors, last
        self.multiplies, self.alone = multiplies, alone
        self.halves: Any = None  # see thalweg.optim.engine.halves
        self._check = check
        self.defaults: dict[str, Any] = {p.name: p.default for p in keywords if p.default is not p.empty}
        self.needs: frozenset[str] = frozenset(p.name for p in keywords if p.default is p.empty)
        self.sum_hypers = tuple(_keyword_only(function) for function in self.sums)
        # The first sums may also want the gradient that the step started from, as the third argument.
        self.sums_of_gradient = (
            bool(self.sums) and len(inspect.signature(self.sums[0]).parameters) - len(self.sum_hypers[0]) == 3
        )
        lacking = self.needs - (GIVEN_TO_MATRICES if kind == "matrix" else GIVEN)
        if lacking and (prepare is None or (kind == "matrix" and lacking & GIVEN)):
            raise TypeError(f"{update.__name__}: keyword-only arguments need a default: {', '.join(sorted(lacking))}")
        self.__name__, self.__qualname__, self.__module__ = update.__name__, update.__qualname__, update.__module__
        self.__doc__ = update.__doc__
        self.__signature__ = inspect.Signature(
            [inspect.Parameter(k, inspect.Parameter.KEYWORD_ONLY, default=v) for k, v in self.defaults.items()]
        )

    def __call__(self, **hypers: Any) -> Transform:
        for name in hypers:
            if name not in self.defaults:
                known = ", ".join(self.defaults) or "none"
                raise TypeError(f"{self.__name__}() has no hyper-parameter {name!r} (it has: {known})")
        merged = {**self.defaults, **hypers}
        for name, value in merged.items():
            check_hyperparameter(name, value)
            check_kind(self.defaults[name], value, name)
        values = {name: plain(value) for name, value in merged.items()}
        self.check(values)
        return Transform(self, tuple(values.items()))

    def check(self, hypers: Mapping[str, Any]) -> None:
        """Raise a :class:`ValueError` for hyper-parameters that the update function can't take, or not together."""
        if self._check is not None:
            self._check(**hypers)

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by reference, like a function

    def __repr__(self) -> str:
        return f"<{self.kind} transform {self.__name__}>"


def _keyword_only(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY)


@dataclass(frozen=True)
class Transform:
    """A transform with its hyper-parameters' start values; immutable, hashable, picklable.

    ``names`` maps a hyper-parameter to the key it has in the parameter groups, where that differs.

    Example:
        >>> from thalweg.optim import momentum
        >>> momentum(momentum=0.5).rename(momentum="slow")
        momentum(slow=0.5, nesterov=False, ema=False)
        >>> momentum() == momentum()
        True
    """

    type: TransformType
    hypers: tuple[tuple[str, Any], ...]
    names: tuple[tuple[str, str], ...] = ()

    def rename(self, **names: str) -> Transform:
        """The same transform with hyper-parameters under other names in ``param_groups``: ``noise().rename(eta="noise_eta")``."""
        for name in names:
            if name not in dict(self.hypers):
                raise ValueError(f"{self.type.__name__} has no hyper-parameter {name!r} to rename")
        return Transform(self.type, self.hypers, tuple({**dict(self.names), **names}.items()))

    def group_name(self, hyper: str) -> str:
        """The key of hyper-parameter ``hyper`` in the parameter groups."""
        return dict(self.names).get(hyper, hyper)

    def __rshift__(self, other: Transform | Chain) -> Chain:
        return Chain((self,)) >> other

    def __repr__(self) -> str:
        inner = ", ".join(f"{self.group_name(k)}={v!r}" for k, v in self.hypers)
        return f"{self.type.__name__}({inner})"


@dataclass(frozen=True)
class Chain:
    """Transforms applied one after the other. Hyper-parameters of one name are one hyper-parameter, so their values must agree.

    Example:
        >>> from thalweg.optim import Chain, adam_direction, add_decayed_weights, trust_ratio
        >>> rule = adam_direction() >> add_decayed_weights(weight_decay=0.1) >> trust_ratio()
        >>> isinstance(rule, Chain), len(rule.transforms)
        (True, 3)
    """

    transforms: tuple[Transform, ...]
    hypers: Mapping[str, Any] = field(init=False, compare=False, repr=False)
    state_names: tuple[tuple[str, ...], ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for transform, follower in itertools.pairwise(self.transforms):
            if transform.type.last:
                raise ValueError(
                    f"{transform.type.__name__} must end its chain, but {follower.type.__name__} comes after it"
                )
        object.__setattr__(self, "hypers", self._merge_hypers())
        object.__setattr__(self, "state_names", self._unique_state_names())

    @classmethod
    def of(cls, chain: Transform | Chain) -> Chain:
        """``chain`` itself, or a chain of one transform."""
        if isinstance(chain, Chain):
            return chain
        if isinstance(chain, Transform):
            return cls((chain,))
        if isinstance(chain, TransformType):
            raise TypeError(f"{chain.__name__} must be called: write {chain.__name__}()")
        raise TypeError(f"a chain is made of transforms, not {type(chain).__name__}")

    def __rshift__(self, other: Transform | Chain) -> Chain:
        return Chain(self.transforms + Chain.of(other).transforms)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.transforms)

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.transforms))

    @functools.cached_property
    def needs_step(self) -> bool:
        """Whether any transform depends on the step count."""
        return any(t.type.prepare or t.type.needs & {"normal", "step"} for t in self)

    @functools.cached_property
    def needs_gradient_norm(self) -> bool:
        """Whether any transform depends on the norm of the whole gradient."""
        return any("gradient_norm" in t.type.needs for t in self)

    @functools.cached_property
    def needs_gradient(self) -> bool:
        """Whether any transform sums over the gradient that the step started from, beside the update."""
        return any(t.type.sums_of_gradient for t in self)

    @functools.cached_property
    def has_rows(self) -> bool:
        """Whether any transform works on rows."""
        return any("rows" in t.type.needs for t in self)

    @functools.cached_property
    def has_matrix(self) -> bool:
        """Whether any transform works on whole matrices."""
        return any(t.type.kind == "matrix" for t in self)

    def state_keys(self, of_matrices: bool) -> list[str]:
        """Keys of the tensors that matrix transforms, or all others, keep."""
        pairs = zip(self.transforms, self.state_names, strict=True)
        return [key for t, keys in pairs if (t.type.kind == "matrix") is of_matrices for key in keys]

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise a :class:`ValueError` for the first hyper-parameter in a parameter group that is out of its range."""
        check_hyperparameter("lr", group["lr"])
        check_hyperparameter("weight_decay", group["weight_decay"])
        check_kind(False, group["maximize"], "maximize")
        for transform in self.transforms:
            for name, default in transform.type.defaults.items():
                label = transform.group_name(name)
                check_hyperparameter(name, group[label], label)
                check_kind(default, group[label], label)
            transform.type.check({name: plain(group[transform.group_name(name)]) for name, _ in transform.hypers})

    def _merge_hypers(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for transform in self.transforms:
            for name, value in transform.hypers:
                key = transform.group_name(name)
                if key in RESERVED:
                    raise ValueError(
                        f"{transform.type.__name__}: {key!r} belongs to the engine and can't be a hyper-parameter"
                    )
                if key in merged and merged[key] != value:
                    raise ValueError(
                        f"two transforms of the chain claim {key!r} with different values, {merged[key]!r} and {value!r}: "
                        f"give both the same value, or rename one, as in {transform.type.__name__}(...).rename({name}='...')"
                    )
                merged[key] = value
        return merged

    def _unique_state_names(self) -> tuple[tuple[str, ...], ...]:
        """Keys in the optimizer's state for every transform; a name used before gets a number, by position."""
        seen: dict[str, int] = {}
        keys = []
        for transform in self.transforms:
            own = []
            for name in transform.type.state:
                seen[name] = seen.get(name, 0) + 1
                own.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
            keys.append(tuple(own))
        return tuple(keys)


def elementwise(
    *,
    state: tuple[str, ...] = (),
    prepare: Callable[..., dict[str, float]] | None = None,
    check: Check | None = None,
    last: bool = False,
    multiplies: bool = False,
) -> Callable[[Callable[..., Any]], TransformType]:
    """Declare an element-by-element transform ``f(update, param, state, *, ...) -> update``.

    Args:
        state: names of the tensors kept per parameter; like the parameter, zero at the start. ``f`` reads ``state[name]`` and
            assigns the new tensor to it; it changes nothing in place.
        prepare: ``prepare(step, **hypers) -> {name: float}``, worked out once a step in plain Python. Whatever depends on the
            step count belongs here: inside the fused pass it would be worked out anew for every element.
        check: ``check(**hypers)`` raises a :class:`ValueError` for values that ``f`` can't take, when the transform and when a
            parameter group is made, rather than at the first step.
        last: nothing may come after it in a chain.
        multiplies: all that it does is to multiply the update by one number, which may be a plain float too.

    Keyword-only arguments of ``f`` without a default are filled in: the names that ``prepare`` returns; ``lr``; ``gradient_norm``,
    the Euclidean norm of the gradients of all the optimizer's parameters together; and ``normal``, a function without arguments
    that gives standard normal numbers, the same whatever the sharding (needs a hyper-parameter ``seed``).

    Example:
        >>> from thalweg.optim import Chained, elementwise
        >>> @elementwise()
        ... def clipped(update, param, state, *, bound=1.0):
        ...     return update.clamp(-bound, bound)
        >>> p = nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([0.5, -3.0])
        >>> Chained([p], clipped(bound=1.0), lr=1.0).step()
        >>> p.data
        tensor([-0.5000,  1.0000])
    """

    def declare(update: Callable[..., Any]) -> TransformType:
        return TransformType(
            update, "elementwise", state, prepare=prepare, check=check, last=last, multiplies=multiplies
        )

    return declare


def layerwise(
    *,
    sums: Callable[..., Any] | Sequence[Callable[..., Any]],
    state: tuple[str, ...] = (),
    prepare: Callable[..., dict[str, float]] | None = None,
    switch: str | None = None,
    check: Check | None = None,
) -> Callable[[Callable[..., Any]], TransformType]:
    """Declare a transform ``f(update, param, state, sums, *, ...) -> update`` that needs sums over each whole tensor.

    Args:
        sums: ``sums(update, param) -> tuple of 0-d tensors``, each a sum over elements, so that shards can be added up; or tensors
            ``(rows,)`` of sums over all dimensions but the first. ``f`` gets those of *all* rows of the whole tensor, and asks by a
            keyword-only argument ``rows`` for the slice of them that it was given. A third argument of ``sums`` gets the gradient
            that the step started from, whatever the chain made of it since. Sums that need others first are a further function,
            ``sums=(first, second)``: ``second(update, param, totals)`` gets the first's, and ``f`` all of them in one tuple. Their
            keyword-only arguments get hyper-parameters of those names.
        state, prepare, check: see :func:`elementwise`.
        switch: name of a boolean hyper-parameter; where it is False nothing is summed and ``f`` gets ``sums=None``.

    Example:
        >>> from thalweg.optim import Chained, layerwise
        >>> @layerwise(sums=lambda update, param: (update.square().sum(),))
        ... def unit_length(update, param, state, sums):
        ...     return update / sums[0].sqrt()
        >>> p = nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, -4.0])
        >>> Chained([p], unit_length(), lr=1.0).step()
        >>> p.data
        tensor([-0.6000,  0.8000])
    """

    def declare(update: Callable[..., Any]) -> TransformType:
        return TransformType(update, "layerwise", state, sums, prepare, switch=switch, check=check)

    return declare


def matrix(
    *,
    state: MatrixState | None = None,
    prepare: Callable[..., dict[str, float]] | None = None,
    input_dtype: Callable[..., Any] | None = None,
    vectors: bool = False,
    alone: bool = False,
    check: Check | None = None,
) -> Callable[[Callable[..., Any]], TransformType]:
    """Declare a transform ``f(stack, *, ...) -> stack`` of matrices ``(batch, m, n)``, m counting outputs.

    It may also return ``(stack, scale)``, for matrices of all shapes alike, with ``scale`` of shape ``(batch, m or 1, 1)``: every row
    is multiplied by its number in the pass over memory that comes next, in that one's precision. Matrix transforms that follow each
    other work on the same stacks.

    Args:
        state: what is kept for each matrix, as ``{name: shape}``; then it is ``f(stack, state, *, ...) -> stack``. The function
            ``shape(m, n, **hypers) -> tuple`` gives the state's shape for one m x n matrix, of one dimension or more, zero at the
            start; raise a :class:`ValueError` there for matrices that the transform can't take. ``f`` reads ``state[name]``, of
            shape ``(batch, *shape)``, in the parameters' dtype (float32 at least), and assigns the new tensor to it. Where copying
            would cost too much it may change it in place and then assign a view of it, ``.detach()``.
            ``{name: (shape, torch.int64)}`` keeps state in a dtype of its own instead.
        prepare, check: see :func:`elementwise`.
        input_dtype: ``input_dtype(device, dtype, **hypers) -> torch.dtype`` the updates should arrive in; default: as they are.
        vectors: take parameters of fewer than two dimensions too, as one row; else they are refused at construction.
        alone: a large matrix is better worked on by itself, while it is in the cache, than copied into a stack.

    Keyword-only arguments of ``f`` without a default are filled in: the names that ``prepare`` returns, and ``step``, the number of
    the step, from 1.

    In the optimizer's state a matrix has its own tensor ``shape``, or ``(matrices, *shape)`` in groups with ``batched=True`` or
    ``split``. Sharded parameters' state is sharded along its first dimension; it goes to the matrix's owner and back with the matrix.

    Example:
        >>> from thalweg.optim import Chained, matrix
        >>> @matrix()
        ... def centered_rows(stack):
        ...     return stack - stack.mean(-1, keepdim=True)
        >>> p = nn.Parameter(torch.zeros(1, 2))
        >>> p.grad = torch.tensor([[1.0, 3.0]])
        >>> Chained([p], centered_rows(), lr=1.0).step()
        >>> p.data
        tensor([[ 1., -1.]])
    """

    def declare(update: Callable[..., Any]) -> TransformType:
        return TransformType(
            update,
            "matrix",
            state or (),
            prepare=prepare,
            input_dtype=input_dtype,
            vectors=vectors,
            check=check,
            alone=alone,
        )

    return declare
