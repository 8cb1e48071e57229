"""Small groups of examples whose losses move against each other (arXiv:2311.04163)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thalweg.autodiff import eval_mode, per_example_gradients

LossFn = Callable[[Tensor, Tensor], Tensor]


class Opposition(NamedTuple):
    """What :func:`opposition` gives.

    Args:
        cosine: of both groups' mean gradients; near -1 if they pull in opposite directions.
        norm_ratio: mean norm of the groups' gradients over the norm of the other examples' mean gradient.

    Example:
        >>> from thalweg.probe import opposition
        >>> X, y = torch.tensor([[1.0], [-1.0], [0.5]]), torch.ones(3, 1)
        >>> opposition(nn.Linear(1, 1, bias=False), nn.functional.mse_loss, X, y, [0], [1]).norm_ratio > 0
        True
    """

    cosine: float
    norm_ratio: float


def find_opposing_groups(losses: Tensor, step: int, k: int = 50) -> tuple[Tensor, Tensor]:
    """The k examples whose losses rose most in a step, and the k whose losses fell most.

    Those of a spike are candidates for a pair of groups with opposed gradients; :func:`alternation` and :func:`opposition` tell
    whether they are one. Large changes of the loss go with large gradients anyway, so compare with groups of high loss.

    Args:
        losses: of every example at every step, ``(T, n)``.
        step: t; the change is ``losses[t + 1] - losses[t]``.
        k: size of each group, at most n / 2.

    Returns:
        Indices of both groups, ``(k,)`` each, largest change first.

    Raises:
        ValueError: ``k`` or ``step`` is out of range, fewer than three steps, or a loss that is not finite.

    Example:
        >>> losses = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 3.0, 0.2, 1.1], [1.0, 1.0, 1.0, 1.0]])
        >>> find_opposing_groups(losses, 0, k=1)
        (tensor([1]), tensor([2]))
    """
    _check(losses)
    if not 1 <= k <= losses.shape[1] // 2:
        raise ValueError(f"k must lie between 1 and half the number of examples, {losses.shape[1] // 2}, not {k}")
    if not 0 <= step < len(losses) - 1:
        raise ValueError(f"step must lie between 0 and {len(losses) - 2}, not {step}")
    order = (losses[step + 1] - losses[step]).argsort(descending=True)
    return order[:k], order[-k:].flip(0)


def alternation(losses: Tensor, a: Tensor, b: Tensor) -> float:
    """Minus the correlation, over steps, of the changes of both groups' mean losses: 1 if one rises whenever the other falls.

    Args:
        losses: of every example at every step, ``(T, n)``, T at least 3.
        a, b: indices of both groups.

    Example:
        >>> losses = torch.tensor([[1.0, 1.0], [2.0, 0.5], [1.0, 1.0], [2.0, 0.5]])
        >>> round(alternation(losses, torch.tensor([0]), torch.tensor([1])), 6)
        1.0
    """
    _check(losses)
    first, second = (losses[:, group].double().mean(1).diff() for group in (a, b))
    return -torch.corrcoef(torch.stack([first, second]))[0, 1].item()


def opposition(
    model: nn.Module, loss_fn: LossFn, X: Tensor, y: Tensor, a: Tensor | list[int], b: Tensor | list[int]
) -> Opposition:
    """How far two groups' mean gradients oppose each other, and how large they are.

    Evaluation mode; the model and its gradients are left as they were.

    Args:
        model: any module of one input.
        loss_fn: ``loss_fn(outputs, targets)``, the mean over a batch.
        X, y: all examples, ``(n, ...)``.
        a, b: indices of both groups.

    Example:
        >>> X, y = torch.tensor([[1.0], [1.0], [2.0]]), torch.tensor([[9.0], [-9.0], [0.0]])
        >>> round(opposition(nn.Linear(1, 1, bias=False), nn.functional.mse_loss, X, y, [0], [1]).cosine, 6)
        -1.0
    """
    groups = [torch.as_tensor(group) for group in (a, b)]
    rest = torch.ones(len(X), dtype=torch.bool)
    rest[torch.cat(groups)] = False
    with eval_mode(model):
        parts = [per_example_gradients(model, loss_fn, X[i], y[i], chunk_size=64).double() for i in groups]
        outputs = loss_fn(model(X[rest]), y[rest])
        others = torch.autograd.grad(outputs, [p for p in model.parameters() if p.requires_grad])
    means = [part.mean(0) for part in parts]
    norm = torch.cat([g.flatten() for g in others]).double().norm()
    own = torch.cat(parts).norm(dim=1).mean()
    return Opposition(torch.cosine_similarity(means[0], means[1], dim=0).item(), (own / norm).item())


def _check(losses: Tensor) -> None:
    if losses.dim() != 2 or len(losses) < 3 or not bool(losses.isfinite().all()):
        raise ValueError("losses must be finite, of shape (steps, examples), with at least three steps")
