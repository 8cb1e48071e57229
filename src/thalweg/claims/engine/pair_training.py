"""Networks that learn a group's addition from a part of its table, many trainings side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thalweg.tasks.group_addition import group_table, split_pairs


@dataclass
class PairRun:
    """One training.

    Args:
        pairs: how many pairs it had.
        epochs: at which accuracies were measured.
        train, test: accuracy on the pairs it had, and on all others.
        first: the first layer at the end, ``(2M, K)``.
    """

    pairs: int
    epochs: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    first: Tensor = field(default_factory=lambda: torch.empty(0))


def train_pairs(
    order: int,
    shares: Sequence[float],
    *,
    width: int,
    lr: float,
    weight_decay: Sequence[float],
    epochs: int,
    generator: torch.Generator,
    stop: float = 0.95,
    every: int = 20,
) -> list[PairRun]:
    """:class:`thalweg.nn.PairMLP` with squares, full batch, Adam with coupled weight decay, and the centred squared loss.

    Derivatives are written out, and all trainings share each operation: a tenth of the time of one after the other by autograd.

    Args:
        order: M.
        shares: of the M^2 pairs to train on, one a training.
        width: hidden units.
        lr: learning rate.
        weight_decay: one a training.
        epochs: at most this many steps.
        generator: draws the pairs, then the starts.
        stop: test accuracy at which a training ends.
        every: epochs between two measurements of accuracy.
    """
    table = group_table(order)
    splits = [split_pairs(table, share, generator=generator) for share in shares]
    runs = [PairRun(len(train)) for train, _ in splits]
    longest = max(run.pairs for run in runs)
    rows = torch.zeros(len(runs), longest, 3, dtype=torch.long)
    weight = torch.zeros(len(runs), longest, 1)
    for i, (train, _) in enumerate(splits):
        rows[i, : len(train)] = train
        weight[i, : len(train)] = 2 / len(train)  # what pads the shorter ones weighs nothing
    U = (2 * torch.rand(len(runs), 2 * order, width, generator=generator) - 1) / math.sqrt(2 * order)
    V = (2 * torch.rand(len(runs), width, order, generator=generator) - 1) / math.sqrt(width)
    decay = torch.tensor(list(weight_decay)).view(-1, 1, 1)
    state = [U, V, *(torch.zeros_like(x) for x in (U, U, V, V))]
    live = list(range(len(runs)))
    for epoch in range(epochs + 1):
        if epoch % every == 0 or epoch == epochs:
            for j, i in enumerate(live):
                _measure(runs[i], epoch, state[0][j], state[1][j], splits[i])
            keep = [j for j, i in enumerate(live) if runs[i].test[-1] <= stop and epoch < epochs]
            for j in set(range(len(live))) - set(keep):
                runs[live[j]].first = state[0][j].clone()
            if len(keep) < len(live):
                live = [live[j] for j in keep]
                rows, weight, decay, *state = (x[keep] for x in (rows, weight, decay, *state))
            if not live:
                break
        gradients = _gradients(state[0], state[1], rows, weight)
        for k, gradient in enumerate(gradients):
            _adam(state[k], gradient + decay * state[k], state[2 + 2 * k], state[3 + 2 * k], lr, epoch + 1)
    return runs


def _measure(run: PairRun, epoch: int, U: Tensor, V: Tensor, parts: tuple[Tensor, Tensor]) -> None:
    order = V.shape[1]
    run.epochs.append(epoch)
    for course, part in zip((run.train, run.test), parts, strict=True):
        outputs = (U[part[:, 0]] + U[part[:, 1] + order]).square() @ V
        course.append((outputs.argmax(1) == part[:, 2]).double().mean().item())


def _gradients(U: Tensor, V: Tensor, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of the mean loss, by both layers."""
    copies, inputs, width = U.shape
    offset = inputs * torch.arange(copies).unsqueeze(1)
    left, right = (rows[..., 0] + offset).flatten(), (rows[..., 1] + inputs // 2 + offset).flatten()
    flat = U.flatten(0, 1)
    before = (flat.index_select(0, left) + flat.index_select(0, right)).view(copies, -1, width)
    features = before.square()
    off = features @ V
    off -= off.mean(-1, keepdim=True)
    off.scatter_add_(-1, rows[..., 2:], -torch.ones_like(weight))
    off += 2 / inputs  # the label's one-hot code is centred too
    off *= weight
    back = (off @ V.mT).mul_(before).mul_(2).flatten(0, 1)
    return torch.zeros_like(flat).index_add_(0, left, back).index_add_(0, right, back).view_as(U), features.mT @ off


def _adam(weight: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, lr: float, step: int) -> None:
    """In place; betas 0.9 and 0.999, eps 1e-8."""
    mean.lerp_(gradient, 0.1)
    square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    spread = (square / (1 - 0.999**step)).sqrt_().add_(1e-8)
    weight.addcdiv_(mean, spread, value=-lr / (1 - 0.9**step))
