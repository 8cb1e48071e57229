"""Fira: GaLore that also uses what lies outside its subspace (arXiv:2410.01623)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.optim.adamw import adam_direction
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.galore import bias_corrected
from thalweg.optim.subspace import subspace
from thalweg.optim.subspace_optimizer import SubspaceOptimizer
from thalweg.registry import method


@method(
    "fira",
    search={"lr": ("log", 1e-4, 1e-1), "rest_lr": ("log", 1e-4, 3e-2), "rank": ("choice", 4, 16, 64)},
    use="As GaLore, where a low rank alone loses too much; the same state.",
)
class Fira(SubspaceOptimizer):
    r"""GaLore's step in the subspace, and outside it the gradient, scaled alike and limited in its growth (arXiv:2410.01623).

    With R, N, P of :class:`~thalweg.optim.GaLore` and the residual :math:`S = G - R P^\top`:

    .. math::
        F_i = \frac{\|N_i\|}{\|R_i\|} S_i, \qquad F \leftarrow F / L, \quad
        L = \frac{\max(\|F\| / \|F_{prev}\|,\, \gamma)}{\gamma}, \qquad
        W \leftarrow (1 - \eta\lambda) W - \eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t} (s\, N P^\top + F)

    The ratios, and the limit, see N before the bias correction, as the paper's code does: for a steady gradient N grows by itself
    at first, so the limit holds the residual part down in the first tens of steps.

    Args:
        params: best a module: embeddings, the output head and everything below two dimensions go to AdamW
            (:func:`thalweg.optim.subspace_groups`). Parameter groups choose by ``rule="subspace"`` or ``"adamw"``, and may have
            their own ``rank``.
        lr: learning rate of the matrices (default 0.01).
        betas, eps, weight_decay, rank, update_every, side, on_switch, align_signs: as in :class:`~thalweg.optim.GaLore`.
        scale: s (default 1; the paper's alpha).
        norm_growth_limit: :math:`\gamma`, at least 1 (default 1.01); None: no limit.
        scaling: "column": one ratio for each row (from the left: column) of the longer side; "matrix": one for the matrix.
        reference_residual: take :math:`G - s R P^\top` for the residual, as the published package does (default False).
        projection_dtype: of the products with the basis; see :func:`thalweg.optim.subspace`.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (1e-3, (0.9, 0.999), 1e-8, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: GaLore's and one number a matrix.

    Example:
        >>> import torch
        >>> from thalweg.optim import Fira
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = Fira(model, rank=2)
        >>> model(torch.ones(4, 16)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        rank: int = 128,
        update_every: int = 200,
        scale: float = 1.0,
        side: str = "std",
        on_switch: str = "keep",
        norm_growth_limit: float | None = 1.01,
        scaling: str = "column",
        reference_residual: bool = False,
        projection_dtype: torch.dtype | str | None = None,
        align_signs: bool = True,
        rest_lr: float = 1e-3,
        rest_betas: tuple[float, float] = (0.9, 0.999),
        rest_eps: float = 1e-8,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        chain = subspace(
            adam_direction(betas=betas, eps=eps, bias_correction=False),
            rank,
            residual="scaled",
            on_switch=on_switch,
            update_every=update_every,
            scale=scale,
            side=side,
            projection_dtype=projection_dtype,
            align_signs=align_signs,
            scaling=scaling,
            norm_growth_limit=norm_growth_limit,
            reference_residual=reference_residual,
        ) >> bias_corrected(betas=betas, update_every=update_every, restarts=on_switch == "reset")
        rest = {"lr": rest_lr, "betas": rest_betas, "eps": rest_eps, "weight_decay": rest_weight_decay}
        super().__init__(params, chain, lr=lr, weight_decay=weight_decay, rest=rest, **options)
