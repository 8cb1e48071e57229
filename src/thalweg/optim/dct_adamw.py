"""DCT-AdamW: Adam on the columns of a cosine transform that hold most of the gradient (arXiv:2505.17967)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.optim.adamw import adam_direction
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.subspace import subspace
from thalweg.optim.subspace_optimizer import SubspaceOptimizer
from thalweg.registry import method


@method(
    "dct_adamw",
    search={"lr": ("log", 1e-4, 3e-2), "rest_lr": ("log", 1e-4, 3e-2), "rank": ("choice", 4, 16, 64)},
    use="As GaLore without any SVD, the basis chosen anew at each step.",
)
class DCTAdamW(SubspaceOptimizer):
    r"""AdamW in a subspace picked, without any SVD, from a fixed cosine basis (arXiv:2505.17967).

    For a matrix with more rows than columns, or as many (otherwise from the left):

    .. math::
        S = G Q, \quad I = \text{the r columns of S with the largest norms}, \qquad
        W \leftarrow (1 - \eta\lambda) W - \eta\, \text{adam}(S_I)\, Q_I^\top

    The moments of columns that stay are carried over, those of new ones start from 0. Only I is stored; the bases Q, one for each
    width, are shared by all layers.

    Args:
        params: best a module: embeddings, the output head and everything below two dimensions go to AdamW
            (:func:`thalweg.optim.subspace_groups`). Parameter groups choose by ``rule="subspace"`` or ``"adamw"``; the paper gives
            AdamW also matrices of 32,000 rows or columns and more. Groups may have their own ``rank``.
        lr: learning rate of the matrices (default 1e-3).
        betas, eps: Adam's ((0.9, 0.999), 1e-8).
        weight_decay: decoupled decay of the matrices (default 0).
        rank: r (default 128); at most the matrix's shorter side is used.
        update_every: steps between choices of columns (default 1).
        basis: "dct2": S has the DCT-II of G's rows (default); "dct3".
        selection_norm: 1 (default), or 2, which keeps most of the Frobenius norm.
        on_switch: "rotate" (default), "keep" or "reset".
        error_feedback: add what was left out to the next gradient; takes a full-size tensor of state (default False).
        projection_dtype: of the products with the basis; see :func:`thalweg.optim.subspace`.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (1e-3, (0.9, 0.999), 1e-8, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: for an m x n matrix 2 r max(m, n) numbers and r indices.

    Example:
        >>> import torch
        >>> from thalweg.optim import DCTAdamW
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = DCTAdamW(model, rank=2)
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
        rank: int = 128,
        update_every: int = 1,
        basis: str = "dct2",
        selection_norm: int = 1,
        on_switch: str = "rotate",
        error_feedback: bool = False,
        projection_dtype: torch.dtype | str | None = None,
        rest_lr: float = 1e-3,
        rest_betas: tuple[float, float] = (0.9, 0.999),
        rest_eps: float = 1e-8,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        if basis not in ("dct2", "dct3"):
            raise ValueError(f"unknown basis {basis!r} (choose from dct2, dct3)")
        chain = subspace(
            adam_direction(betas=betas, eps=eps),
            rank,
            basis=basis,
            residual="error_feedback" if error_feedback else "drop",
            on_switch=on_switch,
            update_every=update_every,
            selection_norm=selection_norm,
            projection_dtype=projection_dtype,
        )
        rest = {"lr": rest_lr, "betas": rest_betas, "eps": rest_eps, "weight_decay": rest_weight_decay}
        super().__init__(params, chain, lr=lr, weight_decay=weight_decay, rest=rest, **options)
