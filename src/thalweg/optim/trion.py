"""Trion: Muon in a subspace picked from a cosine basis, what it leaves out fed back (arXiv:2505.17967)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.linalg.polar import Coefficients, newton_schulz
from thalweg.optim.engine import matrix
from thalweg.optim.engine.optimizer import Params
from thalweg.optim.gradient_projector import ColumnProjector
from thalweg.optim.matrix_optimizer import MatrixOptimizer
from thalweg.optim.matrix_sides import oriented, oriented_back
from thalweg.optim.muon import MUON_SEARCH, ShapeScale, check_orthogonalize, iteration_dtype, shape_scale
from thalweg.registry import method


def _check(rank: int, basis: str, **hypers: Any) -> None:
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"Invalid rank: {rank!r} (must be a whole number >= 1)")
    if basis not in ("dct2", "dct3"):
        raise ValueError(f"unknown basis {basis!r} (choose from dct2, dct3)")
    check_orthogonalize(**hypers)


@matrix(state={"momentum_buffer": lambda m, n, **_: (m, n)}, check=_check)
def trion_direction(
    stack: Tensor,
    state: dict[str, Tensor],
    *,
    rank: int = 128,
    momentum: float = 0.95,
    basis: str = "dct2",
    selection_norm: int = 1,
    ns_steps: int = 5,
    ns_coefficients: Coefficients = "quintic",
    eps: float = 1e-7,
    adjust_lr_fn: str = "original",
    ns_dtype: str | None = None,
) -> Tensor:
    r"""Orthogonalize the part of the momentum that a few columns of its cosine transform hold; see :class:`Trion`.

    Example:
        >>> from thalweg.optim import Chained, trion_direction
        >>> p = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
        >>> p.grad = torch.ones(3, 2, dtype=torch.float64)
        >>> Chained([p], trion_direction(rank=1, momentum=0.5), lr=1.0).step()
        >>> bool(torch.linalg.matrix_rank(p.data) == 1)
        True
        >>> p.grad.zero_()  # all of the gradient lay in the first column: half of it is left in the momentum
        tensor([[0., 0.],
                [0., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    total = state["momentum_buffer"] + stack
    x = oriented(total, "std")
    projector = ColumnProjector(basis)
    unchosen = {"columns": torch.zeros(len(x), min(rank, x.shape[-1]), dtype=torch.int32, device=x.device)}
    kept, low = projector.fit(x, unchosen, torch.Generator(), selection_norm)
    left = x - (1 - momentum) * projector.up(low, kept, x)
    state["momentum_buffer"] = oriented_back(left, stack.shape, "std")
    factor = shape_scale(stack.shape[-2], stack.shape[-1], adjust_lr_fn)
    dtype = iteration_dtype(low.device, low.dtype, ns_dtype)
    direction = newton_schulz(low, ns_steps, ns_coefficients, eps, dtype, scale=factor).to(x.dtype)
    return oriented_back(projector.up(direction, kept, x), stack.shape, "std")


@method(
    "trion",
    search={**MUON_SEARCH, "rank": ("choice", 4, 16, 64)},
    use="Where Muon's Newton-Schulz steps cost too much and a rank far below the width does; it keeps a momentum of full size.",
)
class Trion(MatrixOptimizer):
    r"""Muon on the columns of the momentum's cosine transform that hold most of it, AdamW for the rest (arXiv:2505.17967).

    For a matrix with more rows than columns, or as many (otherwise from the left), and a fixed cosine basis Q:

    .. math::
        M \leftarrow M + G, \quad S = M Q, \quad I = \mathrm{top}_r(\|S_j\|), \qquad
        W \leftarrow (1 - \eta\lambda) W - \eta\, s\, \mathrm{NS}(S_I)\, Q_I^\top, \qquad
        M \leftarrow M - (1-\mu)\, S_I Q_I^\top

    NS is five Newton-Schulz steps, on r columns only. What the chosen columns hold of the momentum decays; the rest of it stays whole
    until its turn comes, which is error feedback as in Dion.

    Args:
        params: best a module: embeddings, the output head and everything below two dimensions go to AdamW
            (:func:`thalweg.optim.muon_groups`, with ``rule="trion"``). Parameter groups choose by ``rule="trion"`` or ``"adamw"``, and
            may have their own ``rank``.
        lr: learning rate of the matrices (default 0.02).
        momentum: :math:`\mu` (default 0.95).
        weight_decay: decoupled decay of the matrices (default 0).
        rank: r (default 128); at most the matrix's shorter side is used.
        basis: "dct2": S has the DCT-II of M's rows (default); "dct3".
        selection_norm: 1 (default), or 2, which keeps most of the Frobenius norm.
        ns_steps, ns_coefficients, eps, ns_dtype: of the Newton-Schulz iteration, as in :class:`~thalweg.optim.Muon`.
        adjust_lr_fn: the factor s for an m x n matrix: "original" sqrt(max(1, m/n)) (default); "match_rms_adamw"
            0.2 sqrt(max(m, n)); "spectral" sqrt(m/n), as in Dion; "none" 1.
        rest_lr, rest_betas, rest_eps, rest_weight_decay: AdamW's settings for the rest (3e-4, (0.9, 0.95), 1e-10, 0).
        options: see :class:`~thalweg.optim.EngineOptions`.

    State: one tensor a matrix, ``momentum_buffer``, of its full size; two for the rest. The columns are chosen anew at every step.

    Raises:
        ValueError: a setting out of range or unknown; a parameter below two dimensions, or a complex one, in a group with
            ``rule="trion"``.

    Example:
        >>> import torch
        >>> from thalweg.optim import Trion
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = Trion(model, lr=0.02, rank=2, rest_lr=1e-3)
        >>> model(torch.ones(4, 16)).square().mean().backward()
        >>> optimizer.step()
        >>> optimizer.state[model[0].weight]["momentum_buffer"].shape
        torch.Size([8, 16])
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        rank: int = 128,
        basis: str = "dct2",
        selection_norm: int = 1,
        ns_steps: int = 5,
        ns_coefficients: Coefficients = "quintic",
        eps: float = 1e-7,
        adjust_lr_fn: ShapeScale = "original",
        ns_dtype: torch.dtype | str | None = None,
        rest_lr: float = 3e-4,
        rest_betas: tuple[float, float] = (0.9, 0.95),
        rest_eps: float = 1e-10,
        rest_weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        chain = trion_direction(
            rank=rank,
            momentum=momentum,
            basis=basis,
            selection_norm=selection_norm,
            ns_steps=ns_steps,
            ns_coefficients=ns_coefficients,
            eps=eps,
            adjust_lr_fn=adjust_lr_fn,
            ns_dtype=ns_dtype,
        )
        super().__init__(
            params,
            "trion",
            chain,
            lr=lr,
            weight_decay=weight_decay,
            rest_lr=rest_lr,
            rest_betas=rest_betas,
            rest_eps=rest_eps,
            rest_weight_decay=rest_weight_decay,
            **options,
        )
