"""Update rules in a small subspace of each matrix's gradients, which makes their state small."""

from __future__ import annotations

from typing import Any

import torch

from thalweg.optim.block_order import BLOCK_ORDERS
from thalweg.optim.engine import Chain, Transform
from thalweg.optim.gradient_projector import PROJECTORS
from thalweg.optim.matrix_sides import SIDES
from thalweg.optim.subspace_type import Plan, own_hypers, subspace_type

RESIDUALS = ("drop", "sign", "sgd", "scaled", "error_feedback")
SWITCHES = ("keep", "reset", "rotate")


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
    projection_dtype: torch.dtype | str | None = None,
    align_signs: bool = True,
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
            :math:`\|N\| / \|R\|` (:func:`thalweg.optim.subspace_residual.stretch`), with its growth limited;
            "error_feedback" added to the next gradient, which takes a full-size tensor of state.
        on_switch: what becomes of the rule's state when the subspace changes: "keep" as it is; "reset" to zero, and its step count
            too; "rotate" into the new basis (:math:`M P_{old}^\top P_{new}`, variances with the squared entries).
        update_every: T (default 200).
        scale: s (default 1).
        side: what is projected: "std" the shorter side, rows if equal ("right"); "reverse" the longer; "right" rows, "left" columns;
            "flat" the matrix as one row, which with ``basis="columns"`` picks single entries.
        projection_dtype: dtype of the products with the basis, into the subspace and back (default: the gradient's, float32 at
            least). "bfloat16" is faster on hardware made for it; the projected gradient and the update then are exact to 0.3%.
        align_signs: for ``basis="svd"`` and ``"svd_both"``. Singular vectors are given up to their signs, which a routine leaves to
            chance. By default each new one is turned to the side of the one before it in the same place, so that a state that is
            kept goes on in a direction that is at least not the opposite. False takes what ``torch.linalg.svd`` of the matrix gives,
            as published code does, and repeats that code's paths over refreshes. Nothing else depends on it: not "reset", nor
            "rotate", but for rounding.
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
        rule,
        rank,
        density,
        basis,
        residual,
        on_switch,
        update_every=update_every,
        scale=scale,
        side=side,
        projection_dtype=projection_dtype,
        align_signs=align_signs,
        **hypers,
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
    projection_dtype: torch.dtype | str | None = None,
    align_signs: bool = True,
    block_order: str = "random",
    **hypers: Any,
) -> Transform:
    """:func:`subspace`, with blocks, whose order is one of :data:`thalweg.optim.block_order.BLOCK_ORDERS`."""
    if (rank is None) == (density is None):
        raise ValueError("give either rank or density, not both or none")
    for name, value, choices in (
        ("basis", basis, PROJECTORS),
        ("residual", residual, RESIDUALS),
        ("on_switch", on_switch, SWITCHES),
        ("side", side, SIDES),
        ("block_order", block_order, BLOCK_ORDERS),
    ):
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r} (choose from {', '.join(choices)})")
    if basis == "svd_both" and residual == "scaled" and hypers.get("scaling", "column") != "matrix":
        raise ValueError("basis='svd_both' has no long side: set scaling='matrix'")
    if basis == "blocks" and residual == "scaled":
        raise ValueError(
            "basis='blocks' has no ratio for residual='scaled', its residual being whole matrices: choose another"
        )
    if basis != "blocks" and block_order != "random":
        raise ValueError(f"block_order={block_order!r} is for basis='blocks', not {basis!r}")
    if basis not in ("svd", "svd_both") and not align_signs:
        raise ValueError(f"align_signs=False is for basis='svd' and 'svd_both', not {basis!r}")
    if isinstance(projection_dtype, torch.dtype):
        projection_dtype = str(projection_dtype).removeprefix("torch.")
    side = "right" if basis == "blocks" else side
    plan = Plan(Chain.of(rule), basis, residual, on_switch, side, projection_dtype, bool(align_signs), block_order)
    size = {"density": float(density)} if density is not None else {"rank": rank}
    given = {**own_hypers(plan), **size, **hypers}
    for name, value in plan.rule.hypers.items():
        if name in given and given[name] != value:
            raise ValueError(
                f"the rule and its subspace claim {name!r} with different values, {value!r} and {given[name]!r}: give both the same "
                f"value, or rename the rule's"
            )
    return subspace_type(plan)(**size, **hypers)
