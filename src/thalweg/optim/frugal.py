"""FRUGAL: state for a part of each gradient, sign descent for all the rest (arXiv:2411.07837)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.optim.adamw import adam_direction
from thalweg.optim.engine import Chain, Transform
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.subspace import subspace_transform
from thalweg.optim.subspace_optimizer import SubspaceOptimizer
from thalweg.registry import method, unknown

PROJECTIONS = {
    "block": ("blocks", "right"),
    "columns": ("columns", "right"),
    "rows": ("columns", "left"),
    "randk": ("columns", "flat"),
    "svd": ("svd", "std"),
    "random": ("random", "std"),
    "dct": ("dct2", "std"),
}
"""Basis and side by the method's names."""

STATE_FREE = {"sign_sgd": "sign", "sgd": "sgd", "none": "drop"}


@method(
    "frugal",
    search={"lr": ("log", 1e-4, 3e-2), "rest_lr": ("log", 1e-4, 3e-2), "density": ("choice", 0.0625, 0.25)},
    use="Where memory counts most: no state, and no SVD, for most of each matrix.",
)
class Frugal(SubspaceOptimizer):
    r"""A rule with state for a share of each gradient, one without for the rest of it, in the same step (arXiv:2411.07837).

    .. math::
        W \leftarrow (1 - \eta\lambda) W - \eta s \left(\text{up}(\text{rule}(\text{down}(G)))
        + c\, \mathrm{sign}(G - \text{up}(\text{down}(G)))\right)

    The share is drawn anew, or moves on where there is a ``block_order``, on calls 1, T+1, 2T+1, ... of each matrix. With projections
    "svd", "random" and "dct" the sign leaks back into the subspace, by design; with the others the two parts are apart.

    Args:
        params: best a module: embeddings, the output head and everything below two dimensions go to AdamW
            (:func:`thalweg.optim.subspace_groups`). Parameter groups choose by ``rule="subspace"`` or ``"adamw"``.
        lr: learning rate of the matrices, both parts (default 1e-3).
        betas, eps: Adam's ((0.9, 0.999), 1e-8).
        weight_decay: decoupled decay of the matrices (default 0).
        density: the share with state, in [0, 1] (default 0.25): of the matrices for "block", of columns, rows or entries (rounded
            down), or the rank as a share of the shorter side.
        update_every: T, steps between draws (default 200).
        projection: "block" whole matrices, a share of each group's (default); "columns", "rows", "randk" single entries; "svd",
            "random" or "dct" a subspace.
        state_free: "sign_sgd" (default), "sgd", or "none", which drops the rest.
        scale: s (default 1).
        state_free_scale: c (default 1; the paper's fine-tuning: 0.1).
        on_switch: "reset" (default) starts the rule and its step count anew at each draw, "keep" leaves its state as it is. Blocks
            that become active always start from zero, and blocks that cease to be so keep nothing.
        rule: instead of Adam, with settings of its own: ``lion_direction()``, ``momentum()``, ...
        seed: of the draws (default 0).
        projection_dtype: of the products with the basis; see :func:`thalweg.optim.subspace`.
        block_order: for projection "block": "random" draws (default), or the matrices of a group in turn, so that each has its time:
            "ascending" from the first, "descending" from the last, "mirror" in pairs from both ends, of which there must be an even
            number. The order is that of the group.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (1e-3, (0.9, 0.999), 1e-8, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: ``density`` times the rule's; a whole number for each chosen column, row or entry; the basis of a subspace.

    Raises:
        ValueError: a value out of range, or an unknown choice.

    Example:
        >>> import torch
        >>> from thalweg.optim import Frugal
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = Frugal(model, projection="columns")
        >>> model(torch.ones(4, 16)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        density: float = 0.25,
        update_every: int = 200,
        projection: str = "block",
        state_free: str = "sign_sgd",
        scale: float = 1.0,
        state_free_scale: float = 1.0,
        on_switch: str = "reset",
        rule: Chain | Transform | None = None,
        seed: int = 0,
        projection_dtype: torch.dtype | str | None = None,
        block_order: str = "random",
        rest_lr: float = 1e-3,
        rest_betas: tuple[float, float] = (0.9, 0.999),
        rest_eps: float = 1e-8,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        if projection not in PROJECTIONS:
            raise ValueError(unknown("projection", projection, PROJECTIONS))
        if state_free not in STATE_FREE:
            raise ValueError(unknown("state_free", state_free, STATE_FREE))
        basis, side = PROJECTIONS[projection]
        own: dict[str, Any] = {"seed": seed} if basis in ("blocks", "columns", "random") else {}
        if state_free != "none":
            own["residual_scale"] = state_free_scale
        chain = subspace_transform(
            adam_direction(betas=betas, eps=eps) if rule is None else rule,
            None,
            density,
            basis,
            STATE_FREE[state_free],
            on_switch,
            update_every=update_every,
            scale=scale,
            side=side,
            projection_dtype=projection_dtype,
            block_order=block_order,
            **own,
        )
        rest = {"lr": rest_lr, "betas": rest_betas, "eps": rest_eps, "weight_decay": rest_weight_decay}
        super().__init__(params, chain, lr=lr, weight_decay=weight_decay, rest=rest, **options)
