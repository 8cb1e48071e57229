"""The loss between two solutions: whether a straight line joins them without a hill (arXiv:1706.04454)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.autodiff import batches, eval_mode

LossFn = Callable[[Tensor, Tensor], Tensor]


def linear_path(a: nn.Module, b: nn.Module, loss_fn: LossFn, data: Any, *, points: int = 21) -> tuple[Tensor, Tensor]:
    r"""Mean loss at :math:`(1 - s)\,\theta_a + s\,\theta_b` for evenly spaced s.

    Parameters are interpolated; buffers must be equal, as a mean of, say, running variances belongs to no network on the path.
    Evaluation mode; both models are left as they were.

    Args:
        a, b: models of one architecture.
        loss_fn: ``loss_fn(outputs, targets)``, the mean over a batch.
        data: a pair of tensors ``(X, y)``, a dataset, a DataLoader or a list of batches.
        points: number of s, ends included.

    Returns:
        s and losses, ``(points,)`` each, float64.

    Raises:
        ValueError: other parameters or buffers, fewer than two points, or no data.

    Example:
        >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(a.weight), nn.init.ones_(b.weight)
        >>> linear_path(a, b, nn.functional.mse_loss, (torch.ones(1, 1), torch.ones(1, 1)), points=3)[1]
        tensor([1.0000, 0.2500, 0.0000], dtype=torch.float64)
    """
    if points < 2:
        raise ValueError(f"a path needs at least two points, not {points}")
    first, last = dict(a.named_parameters()), dict(b.named_parameters())
    if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in last.items()}:
        raise ValueError("both models must have the same parameters, of the same shapes")
    buffers, others = dict(a.named_buffers()), dict(b.named_buffers())
    if buffers.keys() != others.keys() or not all(torch.equal(buffers[k], others[k]) for k in buffers):
        raise ValueError("both models must have equal buffers: recompute running statistics on the path, or do without")
    shares = torch.linspace(0, 1, points, dtype=torch.float64)
    total, count = torch.zeros(points, dtype=torch.float64), 0
    with eval_mode(a), torch.no_grad():
        for inputs, targets in batches(data):
            for i, s in enumerate(shares.tolist()):
                between = {name: torch.lerp(first[name], last[name], s) for name in first}
                loss = loss_fn(functional_call(a, between, (inputs,)), targets)
                total[i] += len(inputs) * loss.double().item()
            count += len(inputs)
    if not count:
        raise ValueError("there are no data")
    return shares, total / count


def barrier(losses: Tensor) -> float:
    """How far the losses along a path rise above the straight line between its ends; 0 if they never do.

    Args:
        losses: at evenly spaced points, ``(points,)``.

    Example:
        >>> barrier(torch.tensor([0.0, 2.0, 1.0]))
        1.5
    """
    line = torch.lerp(losses[0], losses[-1], torch.linspace(0, 1, len(losses), dtype=losses.dtype))
    return max(0.0, (losses - line).max().item())
