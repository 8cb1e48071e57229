"""The transform type behind :func:`thalweg.optim.subspace`: a subspace with all choices made that aren't numbers."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine import Chain, Transform
from thalweg.optim.engine.random import stream_key
from thalweg.optim.engine.transform import TransformType
from thalweg.optim.gradient_projector import PROJECTORS, GradientProjector, Layout
from thalweg.optim.matrix_sides import is_transposed, oriented, oriented_back, oriented_shape
from thalweg.optim.sign import sign
from thalweg.optim.subspace_residual import limit_growth, residual_norm, stretch
from thalweg.optim.subspace_rule import check_rule, run_rule

SQUARES = frozenset({"exp_avg_sq", "exp_avg_var", "max_exp_avg_var", "sum", "hessian"})
"""State of inner rules that is a variance: in a rotated subspace it becomes one again."""


@dataclass(frozen=True)
class Plan:
    """What is fixed at construction: it decides which state there is."""

    rule: Chain
    basis: str
    residual: str
    on_switch: str
    side: str
    projection_dtype: str | None = None
    align_signs: bool = True
    block_order: str = "random"


@functools.cache
def subspace_type(plan: Plan) -> SubspaceType:
    """The one type of a plan, so that equal chains have equal types."""
    return SubspaceType(plan)


def _restore(*plan: Any) -> SubspaceType:
    return subspace_type(Plan(*plan))


class SubspaceType(TransformType):
    """A subspace with all choices made that aren't numbers. Equal choices share one object, pickled by what was chosen."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        signs = {} if plan.align_signs else {"align_signs": False}
        self.projector: GradientProjector = PROJECTORS[plan.basis](dtype=_dtype(plan.projection_dtype), **signs)
        check_rule(plan.rule)
        hypers = {**plan.rule.hypers, **own_hypers(plan)}

        def update(stack: Tensor, state: dict[str, Tensor], *, step: int, **hypers: Any) -> Tensor:
            return self._update(stack, state, step, hypers)

        update.__name__ = f"subspace[{plan.basis}, {plan.residual}, {plan.on_switch}]"
        update.__doc__ = "See :func:`thalweg.optim.subspace`."
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=v) for name, v in hypers.items()]
        step = inspect.Parameter("step", inspect.Parameter.KEYWORD_ONLY)
        update.__signature__ = inspect.Signature([step, *parameters])  # type: ignore[attr-defined]
        super().__init__(update, "matrix", self._state(), check=self._check_inner, alone=True)
        # Blocks have no state where they aren't active: every draw would compile anew.
        self._head, self.rule = _parted(plan.rule)
        self.halves = self if plan.basis != "blocks" and self.rule.transforms else None

    def __reduce__(self) -> Any:
        return _restore, tuple(getattr(self.plan, field.name) for field in fields(Plan))

    def _check_inner(self, **hypers: Any) -> None:
        for transform in self.plan.rule:
            transform.type.check({name: hypers[transform.group_name(name)] for name, _ in transform.hypers})

    @property
    def inner_keys(self) -> list[str]:
        """Keys of the rule's state."""
        return [key for keys in self.plan.rule.state_names for key in keys]

    def sizes(self, m: int, n: int, rank: int | None = None, density: float | None = None) -> tuple[int, int, int]:
        """Rows and columns of an m x n matrix as it is projected, and the rank."""
        rows, columns = oriented_shape(m, n, self.plan.side)
        most = self.projector.largest_rank(rows, columns)
        if density is not None:
            return (
                rows,
                columns,
                math.floor(round(density * most, 6)) if self.plan.basis == "columns" else round(density * most),
            )
        if not isinstance(rank, int) or rank < 1:
            raise ValueError(f"Invalid rank: {rank!r} (must be a whole number >= 1)")
        return rows, columns, min(rank, most)

    def _state(self) -> dict[str, Any]:
        """Shapes of what is kept, as functions of the matrix's shape and the hyper-parameters."""
        state: dict[str, Any] = {}
        for transform, keys in zip(self.plan.rule, self.plan.rule.state_names, strict=True):
            for name, key in zip(transform.type.state, keys, strict=True):
                state[key] = self._shape_of_inner(transform, name)
        for name in self.projector.names:
            state[name] = self._shape_of_projector(name)
        if self.plan.residual == "scaled":
            state["residual_norm"] = lambda m, n, **_: (1,)
        if self.plan.residual == "error_feedback":
            state["error"] = lambda m, n, **_: (m, n)
        return state

    def _shape_of_inner(self, transform: Transform, name: str) -> Any:
        def shape(m: int, n: int, rank: Any = None, density: Any = None, **hypers: Any) -> tuple[int, ...]:
            low = self.projector.projected_shape(*self.sizes(m, n, rank, density))
            if transform.type.kind != "matrix":
                return low
            declared = transform.type.matrix_state[name]
            of = declared[0] if isinstance(declared, tuple) else declared
            return of(*low, **{own: hypers[transform.group_name(own)] for own, _ in transform.hypers})

        declared = transform.type.matrix_state.get(name)
        return (shape, declared[1]) if isinstance(declared, tuple) else shape

    def active_layout(self, m: int, n: int, active: bool, hypers: Mapping[str, Any]) -> Layout:
        """Shape and dtype (None: the state's) of what a block of m x n keeps, active or not."""
        found: Layout = {}
        for name in (*self.inner_keys, *self.projector.names):
            declared = self.matrix_state[name]
            of, dtype = declared if isinstance(declared, tuple) else (declared, None)
            found[name] = tuple(of(m, n, **{**hypers, "density": float(active)})), dtype
        return found

    def _shape_of_projector(self, name: str) -> Any:
        def shape(m: int, n: int, rank: Any = None, density: Any = None, **_: Any) -> tuple[int, ...]:
            return self.projector.layout(*self.sizes(m, n, rank, density))[name][0]

        dtype = self.projector.layout(1, 1, 1)[name][1]
        return shape if dtype is None else (shape, dtype)

    def _update(self, stack: Tensor, state: dict[str, Tensor], step: int, hypers: dict[str, Any]) -> Tensor:
        low, begun = self.enter(stack, state, step, hypers)
        direction = self._run(self.rule, begun, state, step, hypers)
        return self.leave(stack, low, direction, state, hypers)

    def count(self, step: int, hypers: Mapping[str, Any]) -> int:
        """The rule's own number of this step."""
        return (step - 1) % hypers["update_every"] + 1 if self.plan.on_switch == "reset" else step

    def enter(
        self, stack: Tensor, state: dict[str, Tensor], step: int, hypers: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The gradient in its subspace, and what the first part of the rule made of it."""
        low = self._projected(stack, state, step, hypers)
        return low, self._run(self._head, low, state, step, hypers)

    def _run(self, rule: Chain, x: Tensor, state: dict[str, Tensor], step: int, hypers: Mapping[str, Any]) -> Tensor:
        """What the rule, or a part of it, makes of projected gradients. It isn't asked about empty ones, of rank 0 or of a block
        that isn't active: transforms of matrices may count on rows and columns."""
        if not rule.transforms or not x.numel():
            return x
        return run_rule(rule, x, state, self.count(step, hypers), hypers)

    def _projected(self, stack: Tensor, state: dict[str, Tensor], step: int, hypers: Mapping[str, Any]) -> Tensor:
        """The gradient in its subspace, a new one if it is time for one."""
        x = self._seen(stack, state)
        kept = {name: state[name] for name in self.projector.names}
        if (step - 1) % hypers["update_every"] != 0:
            return self.projector.down(x, kept)
        generator = torch.Generator().manual_seed(stream_key(hypers.get("seed", 0), step))
        turned = is_transposed(stack.shape[1], stack.shape[2], self.plan.side)
        new, low = self.projector.fit(x, kept, generator, hypers.get("selection_norm", 1), turned)
        if step > 1:
            state.update(self._switched({key: state[key] for key in self.inner_keys}, kept, new))
        state.update(new)
        return low

    def leave(
        self, stack: Tensor, low: Tensor, direction: Tensor, state: dict[str, Tensor], hypers: Mapping[str, Any]
    ) -> Tensor:
        """The update, in the full space."""
        x = self._seen(stack, state)
        kept = {name: state[name] for name in self.projector.names}
        return oriented_back(self._back(x, low, direction, kept, state, hypers), stack.shape, self.plan.side)

    def _seen(self, stack: Tensor, state: dict[str, Tensor]) -> Tensor:
        """The gradient, what error feedback has left of earlier ones added, with what is to be projected as its rows."""
        stack = stack.to(torch.promote_types(stack.dtype, torch.float32))  # a transform before may leave bfloat16
        if self.plan.residual == "error_feedback":
            stack = stack + state["error"]
        return oriented(stack, self.plan.side)

    def _back(
        self, x: Tensor, low: Tensor, direction: Tensor, kept: dict[str, Tensor], state: dict[str, Tensor], hypers: Any
    ) -> Tensor:
        """The update: what the rule has made, in the full space, and what comes from outside the subspace."""
        kind, projector, scale = self.plan.residual, self.projector, hypers["scale"]
        if kind == "error_feedback":
            state["error"] = oriented_back(projector.without(x, low, kept), state["error"].shape, self.plan.side)
        if kind in ("drop", "error_feedback"):
            return projector.up(scale * direction, kept, x)
        if kind == "scaled":
            share = scale if hypers["reference_residual"] else 1.0
            ratio = stretch(low, direction, hypers["scaling"] == "column")
            norm = residual_norm(x, low, ratio, share, lambda: projector.without(x, share * low, kept))
            excess, state["residual_norm"] = limit_growth(norm, state["residual_norm"], hypers["norm_growth_limit"])
            ratio = ratio / excess[:, :, None]
            return (x * ratio).add_(projector.up(scale * direction - share * ratio * low, kept, x))
        factor = scale * hypers["residual_scale"]

        def outside(rest: Tensor) -> Tensor:
            done = sign(rest) if kind == "sign" else rest.clone()
            return done if factor == 1 else done.mul_(factor)

        return projector.merge(outside, x, low, scale * direction, kept)

    def _switched(self, inner: dict[str, Tensor], old: dict[str, Tensor], new: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rule's state for a new subspace."""
        if self.plan.on_switch == "keep":
            return inner
        if self.plan.on_switch == "reset":
            return {key: torch.zeros_like(t) for key, t in inner.items()}
        switched = dict(inner)
        for transform, keys in zip(self.plan.rule, self.plan.rule.state_names, strict=True):
            if transform.type.kind != "matrix":
                for name, key in zip(transform.type.state, keys, strict=True):
                    switched[key] = self.projector.carry(inner[key], old, new, name in SQUARES)
        return switched


def _dtype(name: str | None) -> torch.dtype | None:
    found = None if name is None else getattr(torch, name, None)
    if name is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"unknown projection_dtype {name!r} (choose from float32, float64, bfloat16)")
    return found


def _parted(rule: Chain) -> tuple[Chain, Chain]:
    """A rule up to its last transform of matrices, and the elementwise rest of it, if that keeps its names of state when alone."""
    count = len(rule.transforms)
    first = max((i + 1 for i, t in enumerate(rule) if t.type.kind != "elementwise"), default=0)
    head, rest = Chain(rule.transforms[:first]), Chain(rule.transforms[first:])
    same = rest.state_names == rule.state_names[first:count]
    return (head, rest) if same else (rule, Chain(()))


def own_hypers(plan: Plan) -> dict[str, Any]:
    """Hyper-parameters of the subspace with their defaults: those that its choices have a use for."""
    hypers: dict[str, Any] = {"rank": None, "density": None, "update_every": 200, "scale": 1.0}
    if plan.residual in ("sign", "sgd"):
        hypers["residual_scale"] = 1.0
    if plan.residual == "scaled":
        hypers |= {"scaling": "column", "norm_growth_limit": 1.01, "reference_residual": False}
    if plan.basis in ("dct2", "dct3", "haar"):
        hypers["selection_norm"] = 1
    if plan.basis in ("random", "columns", "blocks"):
        hypers["seed"] = 0
    return hypers
