"""Update rules in a small subspace of each matrix's gradients, which makes their state small."""

from __future__ import annotations

import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.engine import Chain, Transform
from thalweg.optim.engine.passes import bind
from thalweg.optim.engine.random import stream_key
from thalweg.optim.engine.transform import TransformType
from thalweg.optim.gradient_projector import PROJECTORS, GradientProjector
from thalweg.optim.sign import sign
from thalweg.optim.subspace_residual import limit_growth, scaled_residual

RESIDUALS = ("drop", "sign", "sgd", "scaled", "error_feedback")
SWITCHES = ("keep", "reset", "rotate")
SIDES = ("std", "reverse", "right", "left", "flat")

SQUARES = frozenset({"exp_avg_sq", "exp_avg_var", "max_exp_avg_var", "sum", "hessian"})
"""State of inner rules that is a variance: in a rotated subspace it becomes one again."""


@dataclass(frozen=True)
class _Plan:
    """What is fixed at construction: it decides which state there is."""

    rule: Chain
    basis: str
    residual: str
    on_switch: str
    side: str


def subspace(
    rule: Chain | Transform,
    rank: int | None = None,
    density: float | None = None,
    basis: str = "svd",
    residual: str = "drop",
    on_switch: str = "keep",
    update_every: int = 200,
    scale: float = 1.0,
    side: str = "std",
    **hypers: Any,
) -> Transform:
    r"""Run ``rule`` on the part of each matrix's gradient that lies in a small subspace; its state has that part's size.

    For a matrix with more rows than columns, or as many, and a basis P of r orthonormal columns (otherwise from the left,
    on the transposed matrix):

    .. math::
        R = G P, \qquad N = \text{rule}(R), \qquad u = s\, N P^\top + \text{residual}(G - R P^\top)

    The subspace is fitted to the gradient of the calls 1, T+1, 2T+1, ... A gradient that is zero or not finite leaves it as it was.

    Args:
        rule: element-by-element transforms, such as ``lion_direction()``, or transforms of matrices; not such as need the weights,
            norms over tensors or random numbers, which have no meaning in the subspace.
        rank: r; at most what the matrix has is used.
        density: instead of ``rank``: r as a share of its largest value (of the columns for ``basis="columns"``, rounded down);
            in [0, 1], 0 leaves the residual alone.
        basis: "svd" leading singular vectors; "svd_both" those of both sides, so that R is r x r; "random" a random subspace;
            "dct2", "dct3" or "haar" the columns of a fixed basis, cosines or random, that hold most of the gradient; "columns"
            columns of the gradient itself, at random. The last four keep whole numbers only; fixed bases, one a width, are shared
            beside the state.
        residual: "drop"; "sign" its sign, times ``scale * residual_scale``; "sgd" itself, likewise; "scaled" by the ratio
            :math:`\|N\| / \|R\|` (:func:`thalweg.optim.subspace_residual.scaled_residual`), with its growth limited;
            "error_feedback" added to the next gradient, which takes a full-size tensor of state.
        on_switch: what becomes of the rule's state when the subspace changes: "keep" as it is; "reset" to zero, and its step count
            too; "rotate" into the new basis (:math:`M P_{old}^\top P_{new}`, variances with the squared entries).
        update_every: T (default 200).
        scale: s (default 1).
        side: what is projected: "std" the shorter side, rows if equal ("right"); "reverse" the longer; "right" rows, "left" columns;
            "flat" the matrix as one row, which with ``basis="columns"`` picks single entries.
        hypers: ``residual_scale`` (1) for residual="sign" and "sgd"; ``scaling`` ("column": a ratio for each row or column of the
            longer side, or "matrix"), ``norm_growth_limit`` (1.01; None: no limit) and ``reference_residual`` (False; True
            subtracts ``scale`` times the projection, as a published package does) for "scaled"; ``selection_norm`` (1, or 2) for
            fixed bases; ``seed`` (0) for random ones. Matrices of one shape share what is drawn at random.

    Returns:
        A transform of matrices, for a chain; the rule's hyper-parameters are among its own.

    Raises:
        ValueError: an unknown choice, a value out of range, both or neither of ``rank`` and ``density``, or a rule that can't be run
            in a subspace.
        TypeError: a hyper-parameter that the choices don't have.

    State: that of the rule, of the projected shape; the basis; a number for "scaled"; the error of "error_feedback".

    Example:
        >>> import torch
        >>> from thalweg.optim import Chained, lion_direction, subspace
        >>> layer = torch.nn.Linear(64, 32, bias=False)
        >>> optimizer = Chained(layer, subspace(lion_direction(), rank=4, residual="sign"), lr=1e-3)
        >>> layer(torch.ones(2, 64)).sum().backward()
        >>> optimizer.step()
        >>> {name: tuple(value.shape) for name, value in optimizer.state[layer.weight].items() if name != "step"}
        {'exp_avg': (64, 4), 'basis': (32, 4)}
    """
    if basis == "blocks":
        raise ValueError("basis='blocks' chooses among an optimizer's matrices: use Subspace or Frugal for it")
    return subspace_transform(
        rule, rank, density, basis, residual, on_switch, update_every=update_every, scale=scale, side=side, **hypers
    )


def subspace_transform(
    rule: Chain | Transform,
    rank: int | None,
    density: float | None,
    basis: str,
    residual: str,
    on_switch: str,
    *,
    side: str = "std",
    **hypers: Any,
) -> Transform:
    """:func:`subspace`, with blocks."""
    if (rank is None) == (density is None):
        raise ValueError("give either rank or density, not both or none")
    for name, value, choices in (
        ("basis", basis, PROJECTORS),
        ("residual", residual, RESIDUALS),
        ("on_switch", on_switch, SWITCHES),
        ("side", side, SIDES),
    ):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r} (choose from {', '.join(choices)})")
    if basis == "svd_both" and residual == "scaled" and hypers.get("scaling", "column") != "matrix":
        raise ValueError("basis='svd_both' has no long side: set scaling='matrix'")
    plan = _Plan(Chain.of(rule), basis, residual, on_switch, "right" if basis == "blocks" else side)
    size = {"density": float(density)} if density is not None else {"rank": rank}
    given = {**_own_hypers(plan), **size, **hypers}
    for name, value in plan.rule.hypers.items():
        if name in given and given[name] != value:
            raise ValueError(
                f"the rule and its subspace claim {name!r} with different values, {value!r} and {given[name]!r}: give both the same "
                f"value, or rename the rule's"
            )
    return _type_of(plan)(**size, **hypers)


@functools.cache
def _type_of(plan: _Plan) -> SubspaceType:
    return SubspaceType(plan)


def _restore(*plan: Any) -> SubspaceType:
    return _type_of(_Plan(*plan))


class SubspaceType(TransformType):
    """A subspace with all choices made that aren't numbers. Equal choices share one object, pickled by what was chosen."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.projector: GradientProjector = PROJECTORS[plan.basis]()
        _check_rule(plan.rule)
        hypers = {**plan.rule.hypers, **_own_hypers(plan)}

        def update(stack: Tensor, state: dict[str, Tensor], *, step: int, **hypers: Any) -> Tensor:
            return self._update(stack, state, step, hypers)

        update.__name__ = f"subspace[{plan.basis}, {plan.residual}, {plan.on_switch}]"
        update.__doc__ = subspace.__doc__
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=v) for name, v in hypers.items()]
        step = inspect.Parameter("step", inspect.Parameter.KEYWORD_ONLY)
        update.__signature__ = inspect.Signature([step, *parameters])  # type: ignore[attr-defined]
        super().__init__(update, "matrix", self._state(), check=self._check_inner)

    def __reduce__(self) -> Any:
        plan = self.plan
        return _restore, (plan.rule, plan.basis, plan.residual, plan.on_switch, plan.side)

    def _check_inner(self, **hypers: Any) -> None:
        for transform in self.plan.rule:
            transform.type.check({name: hypers[transform.group_name(name)] for name, _ in transform.hypers})

    @property
    def inner_keys(self) -> list[str]:
        """Keys of the rule's state."""
        return [key for keys in self.plan.rule.state_names for key in keys]

    def sizes(self, m: int, n: int, rank: int | None = None, density: float | None = None) -> tuple[int, int, int]:
        """Rows and columns of an m x n matrix as it is projected, and the rank."""
        rows, columns = _oriented_shape(m, n, self.plan.side)
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

    def _shape_of_projector(self, name: str) -> Any:
        def shape(m: int, n: int, rank: Any = None, density: Any = None, **_: Any) -> tuple[int, ...]:
            return self.projector.layout(*self.sizes(m, n, rank, density))[name][0]

        dtype = self.projector.layout(1, 1, 1)[name][1]
        return shape if dtype is None else (shape, dtype)

    def _update(self, stack: Tensor, state: dict[str, Tensor], step: int, hypers: dict[str, Any]) -> Tensor:
        plan, every = self.plan, hypers["update_every"]
        stack = stack.to(torch.promote_types(stack.dtype, torch.float32))  # a transform before may leave bfloat16
        if plan.residual == "error_feedback":
            stack = stack + state["error"]
        x = _oriented(stack, plan.side)
        kept = {name: state[name] for name in self.projector.names}
        inner = {key: state[key] for key in self.inner_keys}
        if (step - 1) % every == 0:
            generator = torch.Generator().manual_seed(stream_key(hypers.get("seed", 0), step))
            old = kept
            kept, low = self.projector.fit(x, old, generator, hypers.get("selection_norm", 1))
            if step > 1:
                inner = self._switched(inner, old, kept)
        else:
            low = self.projector.down(x, kept)
        count = (step - 1) % every + 1 if plan.on_switch == "reset" else step
        direction = _run(plan.rule, low, inner, count, hypers)
        update = hypers["scale"] * self.projector.up(direction, kept, x)
        rest = self._residual(x, low, direction, kept, state, hypers)
        if rest is not None:
            update = update + rest
        state.update(kept)
        state.update(inner)
        return _oriented_back(update, stack.shape, plan.side)

    def _residual(
        self, x: Tensor, low: Tensor, direction: Tensor, kept: dict[str, Tensor], state: dict[str, Tensor], hypers: Any
    ) -> Tensor | None:
        """The part of the update that comes from outside the subspace; None: none."""
        kind = self.plan.residual
        if kind == "drop":
            return None
        inside = self.projector.up(low, kept, x)
        if kind == "error_feedback":
            state["error"] = _oriented_back(x - inside, state["error"].shape, self.plan.side)
            return None
        if kind == "scaled":
            outside = x - (hypers["scale"] * inside if hypers["reference_residual"] else inside)
            scaled = scaled_residual(outside, low, direction, hypers["scaling"] == "column")
            update, state["residual_norm"] = limit_growth(scaled, state["residual_norm"], hypers["norm_growth_limit"])
            return update
        factor = hypers["scale"] * hypers["residual_scale"]
        return factor * (sign(x - inside) if kind == "sign" else x - inside)

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


def _own_hypers(plan: _Plan) -> dict[str, Any]:
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


def _run(
    rule: Chain, x: Tensor, state: dict[str, Tensor], step: int, hypers: dict[str, Any], param: Any = None
) -> Tensor:
    """The rule's update; ``state`` gets its new state."""
    bound, values = bind(rule, {"lr": 0.0, "weight_decay": 0.0, **hypers}, step)
    for transform in bound:
        kind = transform.type
        own = {name: state[key] for name, key in zip(kind.state, transform.state_keys, strict=True)}
        keywords = transform.keywords(values)
        if kind.kind == "elementwise":
            x = kind.update(x, x if param is None else param, own, **keywords)
        else:
            done = kind.update(x, own, **keywords) if kind.state else kind.update(x, **keywords)
            done = done[0] * done[1] if isinstance(done, tuple) else done
            x = done.to(x.dtype)  # Newton-Schulz steps may leave bfloat16
        state.update({key: own[name] for name, key in zip(kind.state, transform.state_keys, strict=True)})
    return x


def _check_rule(rule: Chain) -> None:
    """Raise a :class:`ValueError` for a rule that makes no sense in a subspace."""
    taken = {"basis", "left_basis", "columns", "active", "residual_norm", "error"}
    for transform, keys in zip(rule, rule.state_names, strict=True):
        kind = transform.type
        outside = kind.needs & {"lr", "normal", "rows", "gradient_norm"}
        if kind.kind == "layerwise" or outside or taken & set(keys):
            why = (
                "norms over whole tensors"
                if kind.kind == "layerwise"
                else ", ".join(sorted(outside or taken & set(keys)))
            )
            raise ValueError(f"{kind.__name__} can't run in a subspace: it needs {why}; put it before or after")
        one = Chain((transform,))
        state = {}
        for name, key in zip(kind.state, one.state_names[0], strict=True):
            declared = kind.matrix_state.get(name, lambda m, n, **_: (m, n))
            of, dtype = declared if isinstance(declared, tuple) else (declared, None)
            state[key] = torch.zeros(1, *of(2, 2, **dict(transform.hypers)), dtype=dtype)
        weights = torch.full((1, 2, 2), math.nan)
        if _run(one, torch.ones(1, 2, 2), state, 1, dict(one.hypers), weights).isnan().any():
            raise ValueError(f"{kind.__name__} can't run in a subspace: it needs the weights; put it before or after")


def _is_transposed(m: int, n: int, side: str) -> bool:
    return side == "left" or (side == "std" and m < n) or (side == "reverse" and m >= n)


def _oriented_shape(m: int, n: int, side: str) -> tuple[int, int]:
    if side == "flat":
        return 1, m * n
    return (n, m) if _is_transposed(m, n, side) else (m, n)


def _oriented(stack: Tensor, side: str) -> Tensor:
    """The stack, with what is to be projected as its rows."""
    if side == "flat":
        return stack.reshape(len(stack), 1, -1)
    return stack.mT if _is_transposed(stack.shape[1], stack.shape[2], side) else stack


def _oriented_back(x: Tensor, shape: torch.Size, side: str) -> Tensor:
    if side == "flat":
        return x.reshape(shape)
    return x.mT if _is_transposed(shape[1], shape[2], side) else x
