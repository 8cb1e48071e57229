"""Task ``deep-linear``: a linear network whose whole loss curve is known in advance (arXiv:1312.6120)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from thalweg.init import aligned_linear_
from thalweg.linalg.linear_network import mode_trajectory
from thalweg.tasks.task import Task

ITEMS = 8
START = 1e-3
"""Strength of every mode at the start."""


def task() -> Task:
    """Learn a binary tree of 8 items with an 8-8-7 linear network: full-batch regression, no noise.

    Inputs are the items, one-hot times sqrt(8), so that ``E[x x^T] = I``; targets are the tree's 7 inner nodes, +1 for
    items in the left subtree, -1 in the right one, 0 outside. The start is aligned with the targets' singular vectors
    and balanced, so plain gradient descent follows :func:`expected_loss`: plateaus and drops, coarse distinctions first.
    Validation data are the same 8 items: here the course of the loss is the subject, not generalization.
    """
    everything = TensorDataset(items(), tree())
    return Task(
        name="deep-linear",
        model=partial(aligned_network, depth=2),
        train=everything,
        valid=everything,
        loss=half_squared_error,
        metric_name="squared error / 2",
        batch_size=ITEMS,
        steps=1500,
        source="deep-linear",
    )


def items() -> Tensor:
    """The inputs, float32 of shape (8, 8): one-hot rows times sqrt(8)."""
    return math.sqrt(ITEMS) * torch.eye(ITEMS)


def tree() -> Tensor:
    """The targets, float32 of shape (8, 7): the inner nodes of a binary tree, from its root down, over the 8 items."""
    nodes = []
    for size in (8, 4, 2):
        for first in range(0, ITEMS, size):
            node = torch.zeros(ITEMS)
            node[first : first + size // 2] = 1
            node[first + size // 2 : first + size] = -1
            nodes.append(node)
    return torch.stack(nodes, dim=1)


def modes() -> tuple[Tensor, Tensor, Tensor]:
    """``U`` (7, 7), ``s`` (7,) and ``V^T`` (7, 8) of ``E[y x^T]``: s = 1, 0.7071 twice, 0.5 four times."""
    correlation = tree().double().T @ items().double() / ITEMS
    return torch.linalg.svd(correlation, full_matrices=False)


def aligned_network(depth: int = 2, strength: float = START) -> nn.Sequential:
    """A linear network of ``depth`` matrices, 8-8-...-7, in which every mode starts on its own and balanced.

    The inner bases are random orthogonal ones from torch's global generator; the course of the loss under gradient
    descent is the same for all of them. See :func:`thalweg.init.aligned_linear_`.

    Args:
        depth: weight matrices, at least 2.
        strength: of every mode of the whole network at the start.
    """
    u, s, vt = modes()
    layers = [nn.Linear(ITEMS, ITEMS, bias=False) for _ in range(depth - 1)]
    layers.append(nn.Linear(ITEMS, len(s), bias=False))
    aligned_linear_(layers, u, vt.T, strength)
    return nn.Sequential(*layers)


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over examples of ``1/2 ||output - target||^2``; both of shape (n, 7)."""
    return (outputs - targets).square().sum(-1).mean() / 2


def expected_loss(t: Tensor, depth: int = 2, strength: float = START) -> Tensor:
    """Loss of gradient flow at the times ``t`` (learning rate times steps): ``sum over modes of (s - u(t))^2 / 2``.

    Args:
        t: times, shape (n,).
        depth: weight matrices.
        strength: of every mode at the start.

    Returns:
        Losses, float64 of shape (n,).
    """
    _, strengths, _ = modes()
    courses = [s - mode_trajectory(s, strength, t, depth=depth) for s in strengths.tolist()]
    return torch.stack(courses).square().sum(0) / 2
