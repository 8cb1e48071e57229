"""Two overlapping digits in a picture, a network that names both, and what is measured of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.claims.engine.digit_classifier import Cut, digits

VARIANTS = ("basic", "noisy", "few labels")


@dataclass(frozen=True)
class Pictures:
    """Flat pictures ``(n, 324)``, labels ``(2, n)``, and which of them are known."""

    x: Tensor
    labels: Tensor
    known: Tensor


class Net(nn.Module):
    """A trunk with two heads."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(324, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(32, 10) for _ in range(2)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Both tasks' scores ``(B, 10)``."""
        hidden = self.trunk(x)
        return [head(hidden) for head in self.heads]


def pictures(variant: str, counts: dict[Cut, int], seed: int) -> dict[Cut, Pictures]:
    """Pairs of digits, drawn with the seed: the first to the upper left, the second to the lower right, halved in size.

    Digits to train on, to choose by and to test with are different ones. Of the training pictures, "noisy" draws 30% of task 2's
    labels at random, and "few labels" knows a tenth of task 1's.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for cut, count in counts.items():
        images, labels = digits()[cut]
        pairs = torch.randint(len(images), (2, count), generator=generator)
        canvas = images.min().expand(2, count, 1, 36, 36).clone()
        canvas[0, ..., :28, :28] = images[pairs[0]]
        canvas[1, ..., 8:, 8:] = images[pairs[1]]
        x = F.avg_pool2d(canvas.amax(0), 2).flatten(1)
        found[cut] = Pictures(x, labels[pairs], torch.ones(2, count, dtype=torch.bool))
    train = found["train"]
    drawn = torch.rand(train.labels.shape, generator=generator)
    other = torch.randint(10, drawn.shape[1:], generator=generator)
    if variant == "noisy":
        train.labels[1] = torch.where(drawn[1] < 0.3, other, train.labels[1])
    if variant == "few labels":
        train.known[0] = drawn[0] < 0.1
    return found


def task_losses(net: Net, data: Pictures, rows: Tensor) -> list[Tensor]:
    """Mean cross-entropy of each task over the examples whose label is known."""
    found = []
    for scores, labels, known in zip(net(data.x[rows]), data.labels[:, rows], data.known[:, rows], strict=True):
        each = F.cross_entropy(scores, labels, reduction="none")
        found.append((each * known).sum() / known.sum().clamp(min=1))
    return found


@torch.no_grad()
def accuracies(net: Net, data: Pictures) -> list[float]:
    """Share of right answers of each task."""
    return [
        (scores.argmax(1) == labels).double().mean().item()
        for scores, labels in zip(net(data.x), data.labels, strict=True)
    ]


@torch.no_grad()
def calibration_error(net: Net, data: Pictures, bins: int = 10) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, weighted by their sizes, for both tasks."""
    total = 0.0
    for scores, labels in zip(net(data.x), data.labels, strict=True):
        confidence, guess = scores.softmax(1).max(1)
        excess = (guess == labels).float() - confidence
        place = (confidence * bins).long().clamp(max=bins - 1)
        total += float(torch.zeros(bins).index_add_(0, place, excess).abs().sum() / len(labels)) / 2
    return total


def sharpness(net: Net, data: Pictures, radius: float = 0.1) -> float:
    """Rise of the mean training loss along its gradient to the edge of a ball."""
    params = list(net.parameters())
    before = torch.stack(task_losses(net, data, torch.arange(len(data.x)))).mean()
    gradients = torch.autograd.grad(before, params)
    norm = torch.stack([g.norm() for g in gradients]).norm().clamp(min=1e-30)
    with torch.no_grad():
        for p, g in zip(params, gradients, strict=True):
            p.add_(g, alpha=radius / float(norm))
        after = torch.stack(task_losses(net, data, torch.arange(len(data.x)))).mean()
        for p, g in zip(params, gradients, strict=True):
            p.sub_(g, alpha=radius / float(norm))
    return float(after - before.detach())
