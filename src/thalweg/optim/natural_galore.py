"""Natural GaLore: GaLore with an empirical Fisher matrix before Adam (arXiv:2410.16029)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.linalg.woodbury import woodbury_natural_member
from thalweg.optim.adamw import adam_direction
from thalweg.optim.engine import matrix
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.galore import bias_corrected
from thalweg.optim.subspace import subspace
from thalweg.optim.subspace_optimizer import SubspaceOptimizer
from thalweg.registry import method


@matrix(state={"gradients": lambda m, n, history, **_: (history, m * n)}, alone=True)
def natural_gradient(
    stack: Tensor,
    state: dict[str, Tensor],
    *,
    step: int,
    history: int = 20,
    damping: float = 1e-3,
    update_every: int = 200,
    keep_history: bool = False,
) -> Tensor:
    r"""Multiply each matrix by the inverse of a damped sum of its last s outer products, its own among them.

    .. math:: u = \left(\lambda I + \sum_{i=1}^{s} g_i g_i^\top\right)^{-1} g, \qquad g = \mathrm{vec}(G)

    ``history`` is s; the history starts anew on steps 1, T+1, ... (``update_every``), when subspaces change, unless
    ``keep_history``. A history of 0 leaves :math:`g / \lambda`.

    Example:
        >>> from thalweg.optim import Chained, natural_gradient
        >>> p = nn.Parameter(torch.tensor([[0.0, 0.0]]))
        >>> p.grad = torch.tensor([[1.0, 2.0]])
        >>> Chained([p], natural_gradient(history=1, damping=1.0), lr=6.0).step()
        >>> p.data
        tensor([[-1., -2.]])
    """
    past = state["gradients"]
    if not past.shape[1]:
        return stack / damping
    since = step - 1 if keep_history else (step - 1) % update_every
    if not since:
        past.zero_()
    place = since % past.shape[1]
    past[:, place] = stack.flatten(1)
    state["gradients"] = past.detach()
    return woodbury_natural_member(past, place, damping).view_as(stack).to(stack.dtype)


@method(
    "natural_galore",
    search={"lr": ("log", 1e-4, 1e-1), "rest_lr": ("log", 1e-4, 3e-2), "rank": ("choice", 4, 16, 64)},
    use="As GaLore, where curvature inside the subspace is worth a history of gradients.",
)
class NaturalGaLore(SubspaceOptimizer):
    r"""GaLore whose projected gradients pass through a damped inverse Fisher matrix before Adam (arXiv:2410.16029).

    With R, N, P and the step of :class:`~thalweg.optim.GaLore`, Adam sees instead of R

    .. math::
        \tilde{R} = \left(\lambda I + \sum_{i} r_i r_i^\top\right)^{-1} \mathrm{vec}(R),
        \qquad r_i = \mathrm{vec}(R_i) \text{ the last s projected gradients}

    The inverse is large where gradients are small: clip, or raise ``damping``, where training ends in noise.

    Args:
        params: best a module: embeddings, the output head and everything below two dimensions go to AdamW
            (:func:`thalweg.optim.subspace_groups`). Parameter groups choose by ``rule="subspace"`` or ``"adamw"``, and may have
            their own ``rank``.
        lr: learning rate of the matrices (default 0.01).
        betas, eps, weight_decay, rank, update_every, scale, on_switch, align_signs: as in :class:`~thalweg.optim.GaLore`.
        history: s (default 20); 0: GaLore, up to a factor :math:`1/\lambda` before Adam.
        damping: :math:`\lambda`, above 0 (default 1e-3).
        sides: "std" projects the shorter side, as in the paper's text (default); "both" projects both, to r x r, as its code does.
        keep_history: keep the history when the subspace changes, as the paper's code does (default False).
        projection_dtype: of the products with the basis; see :func:`thalweg.optim.subspace`.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (1e-3, (0.9, 0.999), 1e-8, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: GaLore's and s projected gradients, which is ten times Adam's two moments; the paper's memory figures leave them out.
    With ``sides="both"`` all that is r x r.

    Example:
        >>> import torch
        >>> from thalweg.optim import NaturalGaLore
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = NaturalGaLore(model, rank=2, history=5)
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
        history: int = 20,
        damping: float = 1e-3,
        sides: str = "std",
        keep_history: bool = False,
        on_switch: str = "keep",
        projection_dtype: torch.dtype | str | None = None,
        align_signs: bool = True,
        rest_lr: float = 1e-3,
        rest_betas: tuple[float, float] = (0.9, 0.999),
        rest_eps: float = 1e-8,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        if sides not in ("std", "both"):
            raise ValueError(f"unknown sides {sides!r} (choose from std, both)")
        natural = natural_gradient(
            history=history, damping=damping, update_every=update_every, keep_history=keep_history
        )
        chain = subspace(
            natural >> adam_direction(betas=betas, eps=eps, bias_correction=False),
            rank,
            basis="svd_both" if sides == "both" else "svd",
            on_switch=on_switch,
            update_every=update_every,
            scale=scale,
            projection_dtype=projection_dtype,
            align_signs=align_signs,
        ) >> bias_corrected(betas=betas, update_every=update_every, restarts=on_switch == "reset")
        rest = {"lr": rest_lr, "betas": rest_betas, "eps": rest_eps, "weight_decay": rest_weight_decay}
        super().__init__(params, chain, lr=lr, weight_decay=weight_decay, rest=rest, **options)
