"""The support vector machine that separates the token to attend to from the others (arXiv:2308.16898)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from thalweg.linalg.infeasible import InfeasibleError
from thalweg.linalg.min_norm_point import min_norm_point


class AttentionSVM(NamedTuple):
    """What :func:`attention_svm` finds.

    Args:
        W: the solution, ``(d, d)``, float64.
        margins: :math:`(x_{i\\alpha_i} - x_{it})^\\top W z_i`, ``(n, T)``; 0 for the selected token itself.
        support: which other tokens have a margin of 1, ``(n, T)``.
        multipliers: the dual solution :math:`\\lambda \\ge 0`, ``(n, T)``.
        gap: by how much ``W`` is at most longer than the best solution, as a share of its norm.

    Example:
        >>> from thalweg.solve import attention_svm
        >>> X, z = torch.eye(2)[None], torch.tensor([[1.0, 0.0]])
        >>> attention_svm(X, z, selected=torch.tensor([0])).multipliers
        tensor([[0.0000, 0.5000]], dtype=torch.float64)
    """

    W: Tensor
    margins: Tensor
    support: Tensor
    multipliers: Tensor
    gap: float


def attention_svm(
    X: Tensor,
    z: Tensor,
    selected: Tensor,
    norm: Literal["fro", "nuc"] = "fro",
    *,
    tol: float = 1e-6,
    max_iter: int = 100_000,
) -> AttentionSVM:
    r"""Least weights with which every query's score of its selected token beats those of all other tokens by 1.

    .. math:: \min_W \|W\| \quad (x_{i\alpha_i} - x_{it})^\top W z_i \ge 1 \quad \text{for all } i \text{ and } t \ne \alpha_i

    Attention :math:`X_i^\top \mathrm{softmax}(X_i W z_i)` that is trained without end points in the direction of the solution: of
    least Frobenius norm where W itself is trained, of least nuclear norm where its factors :math:`W = K Q^\top` are. The former is
    the point nearest to the origin in the convex hull of all :math:`(x_{i\alpha_i} - x_{it}) z_i^\top`, over its squared norm
    (exact). The latter is found by the alternating direction method of multipliers, until a multiplier certifies it:
    :math:`\|W\|_* - \sum \lambda \le` ``tol`` :math:`\|W\|_*` where :math:`\sum_j \lambda_j A_j` has spectral norm 1 at most.

    Args:
        X: tokens, ``(n, T, d)``.
        z: queries, ``(n, d)``.
        selected: index :math:`\alpha_i` of the token that each query selects, ``(n,)``.
        norm: "fro" or "nuc".
        tol: relative gap at which the search for "nuc" stops (default 1e-6).
        max_iter: its largest number of steps.

    Raises:
        InfeasibleError: no W separates the selected tokens.
        ValueError: shapes disagree, fewer than two tokens, an unknown norm, or another token equals the selected one.
        RuntimeError: not done after ``max_iter``.

    Example:
        >>> X, z = torch.eye(2)[None], torch.tensor([[1.0, 0.0]])
        >>> attention_svm(X, z, selected=torch.tensor([0])).W  # (1, -1) W (1, 0) = 1
        tensor([[ 0.5000,  0.0000],
                [-0.5000,  0.0000]], dtype=torch.float64)
    """
    if norm not in ("fro", "nuc"):
        raise ValueError(f"norm must be 'fro' or 'nuc', not {norm!r}")
    others = _others(X, z, selected)
    X, z = X.double(), z.double()
    n, _, d = X.shape
    ahead = X[torch.arange(n), selected].unsqueeze(1) - X
    if (ahead[others].square().sum(-1) == 0).any():
        raise ValueError("a token equals the selected one of its sequence: remove duplicates")
    rows = (ahead.unsqueeze(-1) * z[:, None, None, :])[others].flatten(1)
    nearest = min_norm_point(rows)
    size = nearest.point.square().sum()
    if size <= 1e-18 * rows.square().sum(1).max():
        raise InfeasibleError("no W scores all selected tokens higher than the others")
    w, dual = nearest.point / size, nearest.weights / size
    gap = ((w.norm() - dual.sum() / w.norm()) / w.norm()).abs().item()
    if norm == "nuc":
        w, dual, gap = _least_nuclear(rows, w, d, tol, max_iter)
    margins, multipliers = X.new_zeros(others.shape), X.new_zeros(others.shape)
    margins[others], multipliers[others] = rows @ w, dual
    support = others & (margins <= 1 + max(1e-6, 10 * gap**0.5))
    return AttentionSVM(w.reshape(d, d), margins, support, multipliers, gap)


def locally_optimal(selected: Tensor, scores: Tensor, support: Tensor) -> bool:
    """Whether every selected token has a higher score than the tokens that its solution rests on.

    Training can end at such a choice, although a token that isn't in its way may have a higher score still.

    Args:
        selected: ``(n,)``.
        scores: :math:`Y_i v^\\top x_{it}`, ``(n, T)``: what attending to a token is worth.
        support: of :class:`AttentionSVM`, ``(n, T)``.

    Example:
        >>> locally_optimal(torch.tensor([0]), torch.tensor([[1.0, 0.5, 2.0]]), torch.tensor([[False, True, False]]))
        True
    """
    chosen = scores.gather(1, selected.unsqueeze(1))
    return bool((chosen > scores)[support].all())


def _others(X: Tensor, z: Tensor, selected: Tensor) -> Tensor:
    """Mask of the tokens that aren't selected."""
    if X.dim() != 3 or z.shape != (X.shape[0], X.shape[2]) or selected.shape != X.shape[:1]:
        shapes = f"{tuple(X.shape)}, {tuple(z.shape)} and {tuple(selected.shape)}"
        raise ValueError(f"X must be (n, T, d), z (n, d) and selected (n,), not {shapes}")
    if X.shape[1] < 2:
        raise ValueError("at least two tokens are needed to select one")
    return torch.arange(X.shape[1]) != selected.unsqueeze(1)


def _least_nuclear(rows: Tensor, start: Tensor, d: int, tol: float, max_iter: int) -> tuple[Tensor, Tensor, float]:
    """ADMM on: nuclear norm of one copy of w, margins of another at least 1, w between them by least squares.

    In units in which the start has norm 1, so that one penalty suits all problems.
    """
    unit = start.norm()
    at, goal = rows, 1 / unit
    solve = torch.linalg.inv(torch.eye(len(at), dtype=at.dtype) + at @ at.T)
    w, copy, margins = start / unit, start / unit, at @ start / unit
    low, high = torch.zeros_like(copy), torch.zeros_like(margins)
    for step in range(1, max_iter + 1):
        wanted = copy - low + at.T @ (margins - high)
        w = wanted - at.T @ (solve @ (at @ wanted))  # (I + A'A)^-1 by the smaller matrix
        relaxed, scored = 1.6 * w - 0.6 * copy, 1.6 * (at @ w) - 0.6 * margins
        left, values, right = torch.linalg.svd((relaxed + low).reshape(d, d))
        copy = (left * (values - 1.0).clamp(min=0) @ right).flatten()
        margins = (scored + high).clamp(min=goal)
        low, high = low + relaxed - copy, high + scored - margins
        if step % 25 == 0:
            reached = (at @ copy).min()
            dual = (-high).clamp(min=0)
            size = torch.linalg.matrix_norm((dual @ at).reshape(d, d), 2)
            if reached > 0 and size > 0:
                feasible, dual = copy / reached, dual / size
                length = torch.linalg.matrix_norm(feasible.reshape(d, d), "nuc")
                gap = (1 - dual.sum() / length).item()
                if gap <= tol:
                    return feasible, dual, max(gap, 0.0)
    raise RuntimeError(f"the solution of least nuclear norm was not found in {max_iter} steps: raise max_iter or tol")
