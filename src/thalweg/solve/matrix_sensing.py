"""Low-rank recovery from linear measurements by gradient descent on factors (arXiv:2310.01769)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


class MatrixSensing:
    r"""Linear measurements of a matrix, :math:`y_i = \langle A_i, M \rangle`, and their adjoint.

    Args:
        n1, n2: shape of the matrix.
        measurements: the :math:`A_i`, ``(m, n1, n2)``; ``None`` observes the matrix itself.

    Raises:
        ValueError: the measurements have another shape.

    Example:
        >>> sensing = MatrixSensing(2, 2, torch.eye(2).reshape(1, 2, 2))  # measures the trace
        >>> sensing(torch.ones(2, 2)), sensing.adjoint(torch.tensor([3.0]))
        (tensor([2.]), tensor([[3., 0.],
                [0., 3.]]))
    """

    def __init__(self, n1: int, n2: int, measurements: Tensor | None = None) -> None:
        if measurements is not None and measurements.shape[1:] != (n1, n2):
            raise ValueError(f"measurements must have shape (m, {n1}, {n2}), not {tuple(measurements.shape)}")
        self.shape = (n1, n2)
        self._rows = None if measurements is None else measurements.flatten(1)

    @classmethod
    def gaussian(cls, m: int, n1: int, n2: int, *, generator: torch.Generator | None = None) -> MatrixSensing:
        """m measurements with independent normal entries of variance 1/m, which nearly preserve low-rank matrices' norms."""
        A = torch.randn(m, n1, n2, generator=generator, dtype=torch.float64) / math.sqrt(m)
        return cls(n1, n2, A)

    def __call__(self, M: Tensor) -> Tensor:
        """Measurements of ``(..., n1, n2)``: ``(..., m)``, or M itself if that is what is observed."""
        return M if self._rows is None else M.flatten(-2) @ self._rows.T

    def adjoint(self, residual: Tensor) -> Tensor:
        r""":math:`\sum_i r_i A_i`, ``(..., n1, n2)``."""
        return residual if self._rows is None else (residual @ self._rows).unflatten(-1, self.shape)


@dataclass(frozen=True)
class Factors:
    """What :func:`factored_gd` gives.

    Args:
        F, G: factors of the last step, ``(..., n1, k)`` and ``(..., n2, k)``; the same tensor if symmetric.
        loss: before every step and after the last one, ``(steps + 1, ...)``.
        error: ``|F G^T - target|_F^2`` likewise, if the target was given.
        imbalance: smallest eigenvalue of ``F^T F - G^T G`` likewise, or zeros if symmetric.
        rebalanced: the step before which every run was rebalanced, -1 for never, ``(...)``.
        start: the factors of step 0.

    Example:
        >>> from thalweg.solve import MatrixSensing, factored_gd
        >>> found = factored_gd(MatrixSensing(2, 2), torch.eye(2), 1, lr=0.1, steps=5)
        >>> found.F.shape, found.loss.shape
        (torch.Size([2, 1]), torch.Size([6]))
    """

    F: Tensor
    G: Tensor
    loss: Tensor
    error: Tensor | None
    imbalance: Tensor
    rebalanced: Tensor
    start: tuple[Tensor, Tensor]


def rebalance_(F: Tensor, G: Tensor, beta: float = 1.0) -> None:
    r"""Move the scale from one factor to the other, in place: :math:`F^\top F = \beta^2 I` at the same product.

    With the thin SVD :math:`F = A\,\mathrm{diag}(s) B^\top` and :math:`D = \mathrm{diag}(\beta / s)`,

    .. math:: F \leftarrow F B D = \beta A, \qquad G \leftarrow G B D^{-1}.

    The factors' imbalance :math:`F^\top F - G^\top G`, which sets the rate of gradient descent in surplus directions and hardly
    changes under it, becomes of the size of :math:`\beta^2` there, whatever the starting scale.

    Args:
        F, G: ``(..., n1, k)`` and ``(..., n2, k)``, k at most n1. Singular values of F below 1e-12 of the largest count as that.
        beta: new singular values of F, about the square root of the largest singular value of the target.

    Example:
        >>> F, G = torch.tensor([[2.0]]), torch.tensor([[0.25]])
        >>> rebalance_(F, G)
        >>> F.abs().item(), (F * G).item()
        (1.0, 0.5)
    """
    A, s, Bh = torch.linalg.svd(F, full_matrices=False)
    safe = s.clamp(min=1e-12 * s.amax(-1, keepdim=True)).unsqueeze(-2)
    G.copy_(G @ Bh.mT * safe / beta)
    F.copy_(A * (s.unsqueeze(-2) / safe) * beta)


def factored_gd(
    sensing: MatrixSensing,
    y: Tensor,
    rank: int,
    *,
    lr: float,
    steps: int,
    init_scale: float | Tensor = 0.01,
    init_ratio: float = 1 / 3,
    symmetric: bool = False,
    rebalance_at: int | Literal["auto"] | None = None,
    beta: float = 1.0,
    target: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Factors:
    r"""Gradient descent on :math:`\frac12 |\mathcal A(F G^\top) - y|^2`, or :math:`\frac14 |\mathcal A(X X^\top) - y|^2` if symmetric.

    .. math:: R = \mathcal A^*(\mathcal A(F G^\top) - y), \qquad F \leftarrow F - \eta R G, \quad G \leftarrow G - \eta R^\top F

    and :math:`X \leftarrow X - \frac\eta2 (R + R^\top) X`. With more columns than the target's rank the symmetric form's squared
    error falls as :math:`1/t^2` (:func:`symmetric_tail`); two factors of unequal scale go on exponentially, at a rate that the
    starting scale squared sets, or :func:`rebalance_`.

    Args:
        sensing: the measurements.
        y: what they gave, of the shape of ``sensing(M)``.
        rank: columns k of the factors.
        lr: step size; above 1 / (largest factor's norm squared) it may diverge.
        steps: to take.
        init_scale: standard deviation of F's entries at the start; several, ``(batch,)``, run together from the same draw.
        init_ratio: G's over F's.
        symmetric: one factor on both sides; needs a square target that is positive semi-definite.
        rebalance_at: a step before which :func:`rebalance_` is applied, once; "auto" takes the first at which the loss fell by less
            than 10% in 20 steps and some singular value of F is over 10 times the next one.
        beta: of :func:`rebalance_`.
        target: if known, to record the error.
        generator: source of randomness, on the CPU.

    Raises:
        ValueError: a rank that doesn't fit, or symmetry with a target that isn't square or with rebalancing.

    Example:
        >>> from thalweg.solve import MatrixSensing
        >>> found = factored_gd(MatrixSensing(3, 3), torch.eye(3).double(), 3, lr=0.2, steps=200, init_scale=0.1)
        >>> bool(found.loss[-1] < 1e-20)
        True
    """
    n1, n2 = sensing.shape
    if not 1 <= rank <= min(n1, n2):
        raise ValueError(f"rank must lie between 1 and {min(n1, n2)}, not {rank}")
    if symmetric and (n1 != n2 or rebalance_at is not None):
        raise ValueError("the symmetric form needs a square matrix, and has nothing to rebalance")
    scale = torch.as_tensor(init_scale, dtype=y.dtype).reshape(*torch.as_tensor(init_scale).shape, 1, 1)
    F = scale * torch.randn(n1, rank, generator=generator, dtype=y.dtype)
    G = F if symmetric else init_ratio * scale * torch.randn(n2, rank, generator=generator, dtype=y.dtype)
    start = F, G
    loss, error, imbalance = [], [], []
    rebalanced = torch.full(F.shape[:-2], -1)
    for step in range(steps + 1):
        M = F @ G.mT
        residual = sensing(M) - y
        loss.append(residual.square().flatten(F.dim() - 2).sum(-1) / (4 if symmetric else 2))
        if rebalance_at is not None:
            due = (rebalanced < 0) & _due(rebalance_at, step, loss, F)
            if due.any():
                rebalanced = torch.where(due, step, rebalanced)
                old, new = (F, G), (F.clone(), G.clone())
                rebalance_(*new, beta)
                F, G = (torch.where(due[..., None, None], b, a) for a, b in zip(old, new, strict=True))
        if target is not None:
            error.append((M - target).square().sum((-2, -1)))
        imbalance.append(loss[-1] * 0 if symmetric else torch.linalg.eigvalsh(F.mT @ F - G.mT @ G)[..., 0])
        if step == steps:
            break
        R = sensing.adjoint(residual)
        if symmetric:
            F = G = F - lr / 2 * (R + R.mT) @ F
        else:
            F, G = F - lr * R @ G, G - lr * R.mT @ F
    errors = torch.stack(error) if error else None
    return Factors(F, G, torch.stack(loss), errors, torch.stack(imbalance), rebalanced, start)


def symmetric_tail(t: Tensor, lr: float, start: float, surplus: int = 1) -> Tensor:
    r"""Squared error of the symmetric form once the signal is fitted: the surplus columns' own course.

    A surplus column of squared norm :math:`z` obeys :math:`\dot z = -2 z^2` in time learning rate times steps, so

    .. math:: |X X^\top - M|_F^2 = \frac{k - r}{(1/z_0 + 2 \eta t)^2}, \qquad z_0 \approx (n - r)\,\alpha^2 .

    Args:
        t: steps.
        lr: step size.
        start: :math:`z_0`; entries of scale alpha give about (n - r) alpha^2.
        surplus: columns too many, k - r.

    Example:
        >>> symmetric_tail(torch.tensor([1000.0]), 0.2, 0.01)  # x_0 = 0.1: x^2 = 1/500
        tensor([4.0000e-06])
    """
    return surplus / (1 / start + 2 * lr * t) ** 2


def asymmetric_rate(F: Tensor, G: Tensor, target: Tensor, lr: float) -> Tensor:
    r"""Rate per step at which the squared error of two factors with one surplus column falls once the signal is fitted.

    Where :math:`F G^\top` equals the target M of rank r = k - 1, G ends in a direction :math:`q` of the columns' space, and the
    linearized descent there contracts as :math:`1 - \eta\,\sigma_k(F)^2`. Descent from a small start grows
    :math:`U^\top F + V^\top G`, :math:`M = U \Sigma V^\top`, without turning its row space, and hardly changes
    :math:`\Delta = F^\top F - G^\top G`. So q is known at the start, and

    .. math:: |F G^\top - M|_F^2 \sim (1 - \eta\lambda)^{2t}, \qquad
        \lambda = q^\top \Delta\, q, \quad (U^\top F + V^\top G)\, q = 0, \quad |q| = 1.

    It grows with the square of the starting scale. After :func:`rebalance_` :math:`\lambda = \beta^2`.

    Args:
        F, G: factors at the start, ``(..., n1, k)`` and ``(..., n2, k)``, small, F's entries larger than G's.
        target: M, ``(n1, n2)``, of rank k - 1.
        lr: step size.

    Returns:
        The rate :math:`-2 \log(1 - \eta \lambda)`, about :math:`2 \eta \lambda`, ``(...)``.

    Raises:
        ValueError: the target's rank isn't k - 1.

    Example:
        >>> F, G, M = 0.1 * torch.eye(2), torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> round(asymmetric_rate(F, G, M, lr=0.5).item(), 4)  # -2 log(1 - 0.5 * 0.1^2)
        0.01
    """
    U, s, Vh = torch.linalg.svd(target)
    rank = int((s > 1e-9 * s[0]).sum())
    if rank != F.shape[-1] - 1:
        raise ValueError(f"the target's rank must be {F.shape[-1] - 1}, one below the factors' columns, not {rank}")
    grown = U[:, :rank].T @ F + Vh[:rank] @ G
    q = torch.linalg.svd(grown, full_matrices=True).Vh[..., -1:, :].mT
    surplus = (F @ q).square().sum((-2, -1)) - (G @ q).square().sum((-2, -1))
    return -2 * torch.log1p(-lr * surplus)


def _due(when: int | str, step: int, loss: list[Tensor], F: Tensor) -> Tensor:
    if isinstance(when, int):
        return torch.full(F.shape[:-2], step == when)
    if step < 20:
        return torch.full(F.shape[:-2], False)
    s = torch.linalg.svdvals(F)
    gap = (s[..., :-1] > 10 * s[..., 1:]).any(-1)
    return gap & (loss[-1] > 0.9 * loss[-21])
