r"""Gradient descent on the first layer of a wide ReLU network, in the span of the data (arXiv:2310.02541)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class FrozenHeadPath(NamedTuple):
    r"""What :func:`frozen_head_gd` gives: weights :math:`W_t = W_0 + C_t X` at the kept steps.

    Args:
        kept: the steps at which ``coefficients`` were kept, ascending.
        coefficients: :math:`C_t`, ``(len(kept), width, n)``.
        start: :math:`W_0`, ``(width, p)``.
        head: the fixed output weights, 1/sqrt(width) or minus that, ``(width,)``.
        X: the training points ``(n, p)``.
        outputs: on the training points at every step, the start included, ``(steps + 1, n)``.

    Example:
        >>> from thalweg.solve import frozen_head_gd
        >>> X, y = torch.eye(2, dtype=torch.float64), torch.tensor([1.0, -1.0])
        >>> path = frozen_head_gd(X, y, 8, lr=0.5, steps=2, keep=[0, 2])
        >>> path.kept, path.on(X).shape, torch.equal(path.on(X)[1], path.outputs[2])
        ((0, 2), torch.Size([2, 2]), True)
    """

    kept: tuple[int, ...]
    coefficients: Tensor
    start: Tensor
    head: Tensor
    X: Tensor
    outputs: Tensor

    def projections(self, points: Tensor) -> Tensor:
        """Each neuron's inner product with each of the points ``(k, p)`` at the kept steps, ``(len(kept), k, width)``."""
        first, gram = points @ self.start.T, points @ self.X.T
        return first + gram @ self.coefficients.mT

    def on(self, points: Tensor) -> Tensor:
        """Outputs of the network on the points ``(k, p)`` at the kept steps, ``(len(kept), k)``."""
        first, gram = points @ self.start.T, points @ self.X.T
        return torch.stack([(first + gram @ C.T).relu() @ self.head for C in self.coefficients])


def frozen_head_gd(
    X: Tensor,
    y: Tensor,
    width: int,
    *,
    lr: float,
    steps: int,
    init_std: float = 1e-8,
    keep: Iterable[int] | None = None,
    start: Tensor | None = None,
    head: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> FrozenHeadPath:
    r"""Full-batch gradient descent on the mean logistic loss of a two-layer ReLU network whose output weights stay as drawn.

    .. math::
        f(x) = \sum_j a_j\, \mathrm{relu}(w_j \cdot x), \qquad
        w_j \leftarrow w_j + \frac{\eta}{n} \sum_i \sigma(-y_i f(x_i))\, y_i\, a_j\, 1[w_j \cdot x_i > 0]\, x_i

    All updates are combinations of the points, so that :math:`W = W_0 + C X` and only C moves: with :math:`X X^\top` worked out
    once, a step costs O(n^2 width), whatever the dimension p. The result is that of the direct computation up to rounding.

    Args:
        X: points ``(n, p)``, floating point.
        y: labels, -1 and 1, ``(n,)``.
        width: neurons.
        lr: learning rate :math:`\eta`. Where points are nearly orthogonal, about 1/p changes an output by 1/(8n) in the first step.
        steps: to take.
        init_std: standard deviation of the first layer's start. It decides which neurons are active on which points, so 0 won't
            do: a neuron that is active on none never moves.
        keep: steps, 0 to ``steps``, at which the weights are kept; ``None`` keeps the last.
        start: :math:`W_0`, ``(width, p)``, instead of a draw.
        head: output weights ``(width,)`` instead of a draw of :math:`\pm 1/\sqrt{width}`.
        generator: source of randomness.

    Returns:
        :class:`FrozenHeadPath`.

    Raises:
        ValueError: other labels, shapes that don't fit, a step to keep that isn't taken, or an argument that must be positive.

    Example:
        >>> X, one = torch.tensor([[1.0, 0.0]]), torch.ones(1)
        >>> path = frozen_head_gd(X, one, 1, lr=1.0, steps=1, start=torch.tensor([[1.0, 0.0]]), head=one)
        >>> path.start + path.coefficients[-1] @ X
        tensor([[1.2689, 0.0000]])
    """
    _check(X, y, width, lr, steps, init_std)
    kept = tuple(sorted({steps} if keep is None else set(keep)))
    if not kept or not 0 <= kept[0] <= kept[-1] <= steps:
        raise ValueError(f"steps to keep must lie between 0 and {steps}, not {kept}")
    if start is None:
        start = init_std * torch.randn(width, X.shape[1], generator=generator, dtype=X.dtype)
    if head is None:
        head = (2 * torch.randint(2, (width,), generator=generator) - 1).to(X) / math.sqrt(width)
    if start.shape != (width, X.shape[1]) or head.shape != (width,):
        raise ValueError(f"start must be {(width, X.shape[1])} and head {(width,)}, not {start.shape} and {head.shape}")
    first, gram = X @ start.T, X @ X.T
    C = torch.zeros(width, len(X), dtype=X.dtype)
    outputs, coefficients = [], []
    for step in range(steps + 1):
        before = first + gram @ C.T
        outputs.append(before.relu() @ head)
        if step in kept:
            coefficients.append(C)
        pull = torch.sigmoid(-y * outputs[-1]) * y * (lr / len(X))
        C = C + head.unsqueeze(1) * (before > 0).T * pull
    return FrozenHeadPath(kept, torch.stack(coefficients), start, head, X, torch.stack(outputs))


def first_step_direction(X: Tensor, y: Tensor, lr: float) -> Tensor:
    r"""The linear function that the network of :func:`frozen_head_gd` is after one step, as width grows and the start shrinks.

    .. math:: f(x) \to \theta \cdot x, \qquad \theta = \frac{\eta}{8n} \sum_i y_i x_i

    From a small start f is 0, all points pull with weight 1/2, and :math:`w_j = \frac{\eta a_j}{2n} v_j`, with :math:`v_j` the sum of
    :math:`y_i x_i` over the half of the points on which the neuron happens to be active. Both signs of :math:`a_j` are as likely, and
    :math:`\mathrm{relu}(u) - \mathrm{relu}(-u) = u`: the kinks cancel, and half of half of half remains.

    Args:
        X: points ``(n, p)``.
        y: labels, -1 and 1, ``(n,)``.
        lr: learning rate.

    Returns:
        Weights ``(p,)``.

    Example:
        >>> first_step_direction(torch.eye(2), torch.tensor([1.0, -1.0]), 16.0)
        tensor([ 1., -1.])
    """
    return lr / (8 * len(X)) * (y @ X)


def _check(X: Tensor, y: Tensor, width: int, lr: float, steps: int, init_std: float) -> None:
    if X.dim() != 2 or y.shape != X.shape[:1] or not X.is_floating_point():
        raise ValueError(f"X must be points (n, p) and y a label for each, not {tuple(X.shape)} and {tuple(y.shape)}")
    if not bool((y.abs() == 1).all()):
        raise ValueError("labels must be -1 or 1")
    if width < 1 or steps < 0 or not 0 < lr < math.inf or not 0 < init_std < math.inf:
        raise ValueError(f"width, lr and init_std must be positive, not {width}, {lr} and {init_std}")
