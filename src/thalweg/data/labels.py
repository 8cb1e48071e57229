"""The class labels of a data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset


def labels_of(dataset: Any) -> Tensor:
    """Whole-number labels ``(N,)`` of a map-style data set of ``(inputs, label)`` pairs (a plain list will do).

    A tensor data set's second tensor and the attributes ``targets`` and ``labels`` (torchvision's names) are taken as
    they are; else every example is read once.

    Raises:
        ValueError: the labels are not one whole number an example.

    Example:
        >>> labels_of([("a", 0), ("b", 2)])
        tensor([0, 2])
    """
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        found: Any = dataset.tensors[1]
    else:
        found = getattr(dataset, "targets", getattr(dataset, "labels", None))
        if found is None:
            found = [dataset[i][1] for i in range(len(dataset))]
    labels = torch.as_tensor(found)
    if labels.shape != (len(dataset),) or labels.is_floating_point():
        raise ValueError(f"expected one whole-number label an example, found {labels.dtype} {tuple(labels.shape)}")
    return labels
