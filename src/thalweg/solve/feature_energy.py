r"""The energy that each hidden unit climbs when labels reach it through a wide network (arXiv:2509.21519).

A two-layer network on centred labels :math:`\tilde Y` (n, M), inputs X (n, d) and features :math:`F = \sigma(X W)`: its output layer
soon is the ridge solution of the features it has, at the weight decay :math:`\eta`
(:func:`thalweg.solve.ridge_path_solution`), where the gradient that reaches the features is of the order of :math:`\eta`. For a wide
layer it is proportional to :math:`\tilde Y \tilde Y^\top F`, whose columns depend on one unit each: every unit ascends an energy of
its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ascent(NamedTuple):
    """What :func:`ascend_feature_energy` gives.

    Args:
        w: unit vectors at the end, one a column, ``(d, K)``.
        energy: of each column at the kept steps, ``(kept, K)``; the last row is that of ``w``.

    Example:
        >>> Ascent(torch.eye(2), torch.ones(3, 2)).energy[-1]
        tensor([1., 1.])
    """

    w: Tensor
    energy: Tensor


def feature_energy(w: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    r"""The squared correlation of quadratic features with the labels, :math:`E(w) = \tfrac12 \lVert Y^\top (X w)^2 \rVert^2`.

    Args:
        w: weights, one unit a column, ``(d, K)``.
        X: inputs ``(n, d)``.
        Y: centred labels ``(n, M)``.

    Returns:
        ``(K,)``.

    Example:
        >>> feature_energy(torch.ones(1, 1), torch.tensor([[1.0], [2.0]]), torch.tensor([[-1.0], [1.0]]))
        tensor([4.5000])
    """
    return (Y.T @ (X @ w).square()).square().sum(0) / 2


def ascend_feature_energy(
    start: Tensor, X: Tensor, Y: Tensor, *, lr: float, steps: int, keep_every: int | None = None
) -> Ascent:
    r"""Gradient ascent of :func:`feature_energy` on the unit sphere, all columns side by side.

    .. math::
        g = 2 X^\top \big( X w \circ Y Y^\top (X w)^2 \big), \qquad
        w \leftarrow \frac{w + \gamma (g - (g \cdot w) w)}{\lVert w + \gamma (g - (g \cdot w) w) \rVert}

    On all pairs of addition modulo an odd M every maximum is one frequency (:func:`cyclic_energy`).

    Args:
        start: ``(d, K)``; columns are normalized first.
        X, Y: as in :func:`feature_energy`.
        lr: step size :math:`\gamma`; for addition modulo M below 1/M, since at 2/M both halves of w overshoot in turn.
        steps: to take.
        keep_every: steps between two rows of ``energy``; ``None`` keeps the last only.

    Returns:
        :class:`Ascent`.

    Raises:
        ValueError: shapes that don't fit, ``lr`` not positive, or a column of zeros.

    Example:
        >>> X, Y = torch.eye(2), torch.tensor([[1.0], [0.5]])
        >>> ascend_feature_energy(torch.tensor([[1.0], [0.5]]), X, Y, lr=0.5, steps=50).w.abs().round()
        tensor([[1.],
                [0.]])
    """
    if X.dim() != 2 or Y.dim() != 2 or start.dim() != 2 or len(X) != len(Y) or X.shape[1] != len(start):
        shapes = ", ".join(str(tuple(t.shape)) for t in (start, X, Y))
        raise ValueError(f"start, X and Y must be (d, K), (n, d) and (n, M), not {shapes}")
    if lr <= 0 or bool((start == 0).all(0).any()):
        raise ValueError("lr must be positive, and no column of start zero")
    w, energies = start / start.norm(dim=0), []
    for step in range(steps):
        u = X @ w
        correlation = Y.T @ u.square()
        if keep_every and step % keep_every == 0:
            energies.append(correlation.square().sum(0) / 2)
        g = 2 * X.T @ (u * (Y @ correlation))
        w = w + lr * (g - (g * w).sum(0) * w)
        w = w / w.norm(dim=0)
    return Ascent(w, torch.stack([*energies, feature_energy(w, X, Y)]))


def cyclic_energy(w: Tensor) -> Tensor:
    r"""The energy on all pairs of addition modulo M, from the Fourier transforms of w = [u; v].

    .. math:: E = \frac2M \sum_{k \ne 0} |\hat u_k|^2\, |\hat v_k|^2, \qquad \hat u_k = \sum_a u_a e^{-2 \pi i k a / M}

    The label's correlation with :math:`(u_a + v_b)^2` is twice the convolution of u and v, centred; Parseval gives the sum. On the
    unit sphere, for odd M, it is largest where u and v have one and the same frequency and equal norms: M/4, whatever the
    frequency and the phases.

    Args:
        w: ``(2M, K)``.

    Returns:
        ``(K,)``.

    Example:
        >>> wave = torch.cos(2 * torch.pi * 2 * torch.arange(7, dtype=torch.float64) / 7) / 7**0.5
        >>> cyclic_energy(torch.cat([wave, wave]).unsqueeze(1))  # 7/4
        tensor([1.7500], dtype=torch.float64)
    """
    u, v = torch.fft.fft(w.unflatten(0, (2, -1)), dim=1).abs().square()
    return 2 / len(u) * (u * v)[1:].sum(0)


def feature_signal(F: Tensor, Y: Tensor, V: Tensor) -> Tensor:
    r"""What gradient descent tells the features: :math:`(Y - F V) V^\top`, minus the gradient of half the squared error.

    Where V is the ridge solution at :math:`\eta`, :math:`Y - F V = \eta (F F^\top + \eta I)^{-1} Y`: with as many features as examples
    the signal vanishes with the weight decay.

    Args:
        F: features ``(n, K)``.
        Y: labels ``(n, M)``.
        V: output weights ``(K, M)``.

    Returns:
        ``(n, K)``.

    Example:
        >>> feature_signal(torch.eye(2), torch.eye(2), 0.5 * torch.eye(2))
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]])
    """
    return (Y - F @ V) @ V.T
