"""One fixed split into training and validation examples, the same on every machine."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stratified_split(labels: Tensor, valid_size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split example indices so that every class has nearly the same share in both parts.

    A class with ``count`` of the ``n`` examples gives ``valid_size * count / n`` of them, rounded by largest remainder.
    Both parts come shuffled, so that their first ``k`` entries are a fair sample.

    Args:
        labels: class of every example, integers of shape (n,).
        valid_size: number of validation examples.
        seed: of the split. The numbers come from numpy's ``RandomState``, whose streams are frozen for ever.

    Returns:
        Indices of the training examples, shape (n - valid_size,), and of the validation examples, shape (valid_size,).

    Raises:
        ValueError: ``valid_size`` doesn't leave both parts non-empty.

    Example:
        >>> train, valid = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1]), 3)
        >>> len(train), sorted(torch.tensor([0, 0, 0, 0, 1, 1])[valid].tolist())
        (3, [0, 0, 1])
    """
    n = len(labels)
    if not 0 < valid_size < n:
        raise ValueError(f"valid_size must lie between 1 and {n - 1} for {n} examples, not {valid_size}")
    draws = np.random.RandomState(seed)
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    wanted = valid_size * counts / n
    quotas = np.floor(wanted).astype(int)
    short = valid_size - quotas.sum()
    quotas[np.argsort(quotas - wanted, kind="stable")[:short]] += 1
    valid = np.concatenate(
        [
            draws.permutation(np.flatnonzero(labels.numpy() == c))[:quota]
            for c, quota in zip(classes, quotas, strict=True)
        ]
    )
    train = np.setdiff1d(np.arange(n), valid)
    return torch.as_tensor(draws.permutation(train)), torch.as_tensor(draws.permutation(valid))
