"""Task ``digits``: 1,797 real handwritten digits of 8 x 8 pixels (scikit-learn), and a small perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from thalweg.tasks.split import stratified_split
from thalweg.tasks.task import Task, TaskError

VALID_SIZE = 500


def task() -> Task:
    """1,297 training and 500 validation digits, a 64-128-128-10 ReLU network, accuracy.

    Pixels are scaled to [0, 1]. The data ship with scikit-learn (the test part of UCI's Optical Recognition of
    Handwritten Digits). A run takes about a second, so this is the task for trying things out.

    Raises:
        TaskError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise TaskError("the task digits needs scikit-learn: pip install 'thalweg[race]'") from error
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    labels = torch.tensor(data.target, dtype=torch.int64)
    train, valid = stratified_split(labels, VALID_SIZE)
    return Task(
        name="digits",
        model=network,
        train=TensorDataset(images[train], labels[train]),
        valid=TensorDataset(images[valid], labels[valid]),
        loss=F.cross_entropy,
        metric=accuracy,
        metric_name="accuracy",
        goal="max",
        batch_size=64,
        steps=300,
        source="digits",
    )


def network() -> nn.Module:
    """A perceptron with two hidden layers: 64-128-128-10, ReLU."""
    return nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Share of examples whose largest output, of shape (n, classes), is their target's, of shape (n,)."""
    return (outputs.argmax(-1) == targets).double().mean().item()
