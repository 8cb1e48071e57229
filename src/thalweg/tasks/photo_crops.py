"""Small crops of two photographs, to be told apart by where they come from: natural images without a download."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from thalweg.tasks.remembered import remembered

Cut = Literal["train", "validation", "test"]

COLUMNS: dict[Cut, tuple[float, float]] = {"train": (0.0, 0.6), "validation": (0.6, 0.7), "test": (0.7, 1.0)}
"""Shares of the photographs' width that the crops of each part lie in, so that parts share no pixel."""

BANDS = 4
SIZE = 24


@remembered
def photo_crops(train: int = 2000, validation: int = 500, test: int = 1000) -> dict[Cut, tuple[Tensor, Tensor]]:
    """Crops of 24 x 24 pixels of scikit-learn's two sample photographs, channels standardized by the training part.

    The class is the photograph and the quarter of its height: 8 classes, in equal shares.

    Args:
        train, validation, test: how many of each; the parts come from different columns.

    Returns:
        By part: images, float32 of shape (n, 3, 24, 24), and classes, int64 of shape (n,).
    """
    from sklearn.datasets import load_sample_images

    photographs = [np.asarray(image) for image in load_sample_images().images]
    counts: dict[Cut, int] = {"train": train, "validation": validation, "test": test}
    draws = np.random.RandomState(0)  # its streams are frozen for ever
    parts = {cut: _crops(photographs, count, COLUMNS[cut], draws) for cut, count in counts.items()}
    mean = parts["train"][0].mean((0, 2, 3), keepdim=True)
    std = parts["train"][0].std((0, 2, 3), keepdim=True)
    return {cut: ((images - mean) / std, labels) for cut, (images, labels) in parts.items()}


def _crops(
    photographs: list[np.ndarray], count: int, columns: tuple[float, float], draws: np.random.RandomState
) -> tuple[Tensor, Tensor]:
    labels = draws.permutation(np.arange(count) % (len(photographs) * BANDS))
    crops = []
    for label in labels:
        photograph = photographs[label // BANDS]
        height, width = photograph.shape[0] // BANDS, photograph.shape[1]
        top = (label % BANDS) * height + draws.randint(height - SIZE + 1)
        left = draws.randint(int(columns[0] * width), int(columns[1] * width) - SIZE + 1)
        crops.append(photograph[top : top + SIZE, left : left + SIZE])
    images = torch.as_tensor(np.stack(crops)).permute(0, 3, 1, 2).to(torch.float32)
    return images, torch.as_tensor(labels.astype(np.int64))
