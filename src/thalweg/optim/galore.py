"""GaLore: Adam on a low-rank projection of each gradient (arXiv:2403.03507)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.optim.adamw import adam_direction
from thalweg.optim.engine import elementwise
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.subspace import subspace
from thalweg.optim.subspace_optimizer import SubspaceOptimizer
from thalweg.registry import method


def correction(
    step: int, betas: tuple[float, float], update_every: int = 200, restarts: bool = False, **_: Any
) -> dict[str, float]:
    """Adam's two bias corrections as one factor; ``restarts``: counted anew from every refresh of the subspace."""
    count = (step - 1) % update_every + 1 if restarts else step
    return {"factor": (1 - betas[1] ** count) ** 0.5 / (1 - betas[0] ** count)}


@elementwise(prepare=correction, multiplies=True)
def bias_corrected(
    update: Tensor,
    param: Tensor,
    state: dict[str, Tensor],
    *,
    factor: Any,
    betas: tuple[float, float] = (0.9, 0.999),
    update_every: int = 200,
    restarts: bool = False,
) -> Tensor:
    r"""Adam's bias corrections applied to a finished update, whatever was done to it in between.

    .. math:: u \leftarrow \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\, u

    Example:
        >>> from thalweg.optim import Chained, bias_corrected
        >>> p = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> p.grad = torch.tensor([0.5, -2.0])
        >>> Chained([p], bias_corrected(betas=(0.5, 0.75)), lr=1.0).step()
        >>> p.data
        tensor([2.5000, 6.0000])
    """
    return update * factor


@method(
    "galore",
    search={"lr": ("log", 1e-4, 1e-1), "rest_lr": ("log", 1e-4, 3e-2), "rank": ("choice", 4, 16, 64)},
    use="Matrices whose AdamW state doesn't fit, where an SVD now and then is affordable.",
)
class GaLore(SubspaceOptimizer):
    r"""Adam in the leading singular subspace of each hidden matrix's gradient, AdamW for the rest (arXiv:2403.03507).

    For a matrix with more rows than columns, or as many, and P its gradient's r leading right singular vectors on calls 1, T+1, ...
    (otherwise from the left):

    .. math::
        R = G P, \quad M \leftarrow \beta_1 M + (1-\beta_1) R, \quad V \leftarrow \beta_2 V + (1-\beta_2) R^2, \quad
        N = \frac{M}{\sqrt{V} + \epsilon}, \qquad
        W \leftarrow (1 - \eta\lambda) W - \eta \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}\, s\, N P^\top

    Args:
        params: best a module: embeddings, the output head and everything below two dimensions go to AdamW
            (:func:`thalweg.optim.subspace_groups`). Parameter groups choose by ``rule="subspace"`` or ``"adamw"``, and may have
            their own ``rank``.
        lr: learning rate of the matrices (default 0.01).
        betas, eps: Adam's, in the subspace ((0.9, 0.999), 1e-6; eps is added before the bias correction).
        weight_decay: decoupled decay of the matrices (default 0), before the step; the paper's code decays after it:
            ``decay="after"``.
        rank: r (default 128); at most the matrix's shorter side is used.
        update_every: T, steps between refreshes (default 200).
        scale: s (default 0.25).
        side: the side that is projected, "std" the shorter one; see :func:`thalweg.optim.subspace`.
        on_switch: what becomes of the moments at a refresh: "keep" (default, as published), "reset" or "rotate".
        align_signs: new singular vectors point to the side of the old ones in their places (default True), unlike in published code,
            where they have the signs that ``torch.linalg.svd`` happens to give: False. See :func:`thalweg.optim.subspace`.
        projection_dtype: of the products with the basis; see :func:`thalweg.optim.subspace`.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (1e-3, (0.9, 0.999), 1e-8, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: for an m x n matrix 2 r max(m, n) + r min(m, n) numbers.

    Example:
        >>> import torch
        >>> from thalweg.optim import GaLore
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = GaLore(model, rank=2)
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
        scale: float = 0.25,
        side: str = "std",
        on_switch: str = "keep",
        projection_dtype: torch.dtype | str | None = None,
        align_signs: bool = True,
        rest_lr: float = 1e-3,
        rest_betas: tuple[float, float] = (0.9, 0.999),
        rest_eps: float = 1e-8,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        uncorrected = adam_direction(betas=betas, eps=eps, bias_correction=False)
        chain = subspace(
            uncorrected,
            rank,
            on_switch=on_switch,
            update_every=update_every,
            scale=scale,
            side=side,
            projection_dtype=projection_dtype,
            align_signs=align_signs,
        ) >> bias_corrected(betas=betas, update_every=update_every, restarts=on_switch == "reset")
        rest = {"lr": rest_lr, "betas": rest_betas, "eps": rest_eps, "weight_decay": rest_weight_decay}
        super().__init__(params, chain, lr=lr, weight_decay=weight_decay, rest=rest, **options)
