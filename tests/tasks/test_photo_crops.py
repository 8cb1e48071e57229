"""Crops of photographs: shapes, classes, standardization, and parts that share no pixel."""

from __future__ import annotations

import torch

from thalweg.tasks.photo_crops import COLUMNS, photo_crops


def test_parts() -> None:
    parts = photo_crops(80, 40, 56)
    assert {cut: tuple(x.shape) for cut, (x, _) in parts.items()} == {
        "train": (80, 3, 24, 24),
        "validation": (40, 3, 24, 24),
        "test": (56, 3, 24, 24),
    }
    for _, labels in parts.values():
        assert torch.bincount(labels).tolist() == [len(labels) // 8] * 8
    images, _ = parts["train"]
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), rtol=1e-5, atol=0)


def test_the_same_again_and_no_shared_columns() -> None:
    first = photo_crops(80, 40, 56)
    again = photo_crops.__wrapped__(80, 40, 56)  # not what is remembered
    assert all(torch.equal(a, b) for cut in first for a, b in zip(first[cut], again[cut], strict=True))
    edges = sorted(edge for columns in COLUMNS.values() for edge in columns)
    assert edges == [0.0, 0.6, 0.6, 0.7, 0.7, 1.0]
