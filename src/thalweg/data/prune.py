"""Keeping a part of the training set by score (arXiv:2107.07075)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def prune_by_score(
    scores: Tensor,
    keep: float | int,
    *,
    offset: float | int = 0,
    mode: Literal["max", "min"] = "max",
    stratify: Tensor | None = None,
) -> Tensor:
    """Indices of the examples to keep: the highest scores, or a window below the very top.

    Examples are ranked by ascending score, ties by ascending index, so the result does not depend on the device.

    Args:
        scores: ``(N,)``, finite.
        keep: part to keep in (0, 1], or a whole number of examples from 1 to N. A part is rounded to the nearest
            number.
        offset: part or number of examples left out at the end that is kept first. With wrong labels in the data the top
            of the ranking is mostly those: an offset a little above their share leaves them out.
        mode: ``"max"`` keeps from the highest score downwards, ``"min"`` from the lowest upwards.
        stratify: class numbers ``(N,)``; ``keep`` and ``offset`` are then applied in every class on its own, which
            keeps the balance of the classes.

    Returns:
        Sorted indices, int64, on the CPU.

    Raises:
        ValueError: scores are not finite and flat, ``keep`` or ``offset`` is out of range, or both together exceed N.

    Example:
        >>> prune_by_score(torch.tensor([0.1, 0.9, 0.5, 0.3]), keep=2).tolist()
        [1, 2]
        >>> prune_by_score(torch.tensor([0.1, 0.9, 0.5, 0.3]), keep=0.5, offset=1).tolist()
        [2, 3]
    """
    if scores.dim() != 1 or not bool(scores.isfinite().all()):
        raise ValueError("scores must be flat and finite, one an example")
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', not {mode!r}")
    scores = scores.detach().cpu()
    if stratify is None:
        return _window(scores, keep, offset, mode).sort().values
    if stratify.shape != scores.shape:
        raise ValueError(
            f"stratify must have one class an example: {tuple(stratify.shape)} against {tuple(scores.shape)}"
        )
    members = [(stratify.cpu() == label).nonzero().flatten() for label in stratify.unique().tolist()]
    return torch.cat([own[_window(scores[own], keep, offset, mode)] for own in members]).sort().values


def _window(scores: Tensor, keep: float | int, offset: float | int, mode: str) -> Tensor:
    total = len(scores)
    kept, skipped = _count("keep", keep, total), _count("offset", offset, total)
    if kept < 1:
        raise ValueError(f"keep={keep} leaves no example of {total}")
    if kept + skipped > total:
        raise ValueError(f"keep={keep} and offset={offset} ask for {kept + skipped} of {total} examples")
    ranking = scores.argsort(stable=True)
    return ranking[total - skipped - kept : total - skipped] if mode == "max" else ranking[skipped : skipped + kept]


def _count(name: str, amount: float | int, total: int) -> int:
    if isinstance(amount, float):
        if not 0 <= amount <= 1:
            raise ValueError(f"{name} must be a part from 0 to 1 or a whole number of examples, not {amount}")
        return round(amount * total)
    if amount < 0:
        raise ValueError(f"{name} must not be negative, not {amount}")
    return amount
