"""The small network for real digits that several claims about optimizers train, and how they train it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.tasks import mnist5k
from thalweg.tasks.remembered import remembered
from thalweg.tasks.split import stratified_split

Cut = Literal["train", "validation", "test"]
SIZES = {"validation": 500, "test": 1000}
HELD_OUT: tuple[Cut, ...] = ("validation", "test")
BATCH = 64


@remembered
def digits() -> dict[Cut, tuple[Tensor, Tensor]]:
    """Images and labels of 3500 digits to train on, 500 to choose settings by and 1000 that decide.

    The test part is the validation part of the task mnist5k. Pixels are standardized by the training part.
    """
    images, labels = mnist5k.read_images()
    rest, test = stratified_split(labels, SIZES["test"])
    train, validation = stratified_split(labels[rest], SIZES["validation"])
    parts: dict[Cut, Tensor] = {"train": rest[train], "validation": rest[validation], "test": test}
    mean, std = images[parts["train"]].mean(), images[parts["train"]].std()
    return {cut: ((images[rows] - mean) / std, labels[rows]) for cut, rows in parts.items()}


def network(batch_norm: bool = True) -> nn.Sequential:
    """Two 3 x 3 convolutions of stride 2 with 8 and 16 channels, then 784-16-10: 14,000 weights."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 8), (8, 16)):
        layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10))


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Args:
        losses: mean training loss of every epoch, infinite from where it stopped being finite.
        test_accuracies: share of right answers on the test cut after every epoch, 0 from there.
        accuracy: the same at the end, for validation and test.
        loss: mean cross-entropy at the end, for both.
    """

    losses: tuple[float, ...]
    test_accuracies: tuple[float, ...]
    accuracy: dict[Cut, float]
    loss: dict[Cut, float]

    @property
    def score(self) -> tuple[float, float]:
        """What settings are chosen by, the lower the better: validation error, then validation loss."""
        return 1 - self.accuracy["validation"], self.loss["validation"]


def train(
    make: Callable[[nn.Module], torch.optim.Optimizer],
    seed: int,
    epochs: int,
    *,
    examples: int | None = None,
    before_step: Callable[[torch.optim.Optimizer], None] = lambda optimizer: None,
) -> Trained:
    """Train :func:`network` with batches of 64; the learning rate falls to a tenth after two thirds of the epochs.

    Start and order of the data depend on the seed alone, so that arms are paired.

    Args:
        make: gives the optimizer of a model.
        seed: of start and order.
        epochs: passes over the training part.
        examples: of the training part to use; None: all.
        before_step: sees the optimizer when gradients are there.
    """
    torch.manual_seed(seed)
    model = network()
    optimizer, order = make(model), torch.Generator().manual_seed(seed)
    inputs, targets = (tensor[:examples] for tensor in digits()["train"])
    losses: list[float] = []
    accuracies: list[float] = []
    for epoch in range(epochs):
        if epoch == -(-2 * epochs // 3):
            for group in optimizer.param_groups:
                group["lr"] *= 0.1
        total, batches = 0.0, torch.randperm(len(inputs), generator=order).split(BATCH)
        for rows in batches:
            loss = F.cross_entropy(model(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            before_step(optimizer)
            optimizer.step()
            total += loss.item() / len(batches)
        if not math.isfinite(total):
            rest = epochs - epoch
            return Trained(
                (*losses, *[math.inf] * rest), (*accuracies, *[0.0] * rest),
                dict.fromkeys(HELD_OUT, 0.0), dict.fromkeys(HELD_OUT, math.inf),
            )  # fmt: skip
        losses.append(total)
        accuracies.append(_measured(model, "test")[0])
    found = {cut: _measured(model, cut) for cut in HELD_OUT}
    accuracy, final = ({cut: pair[k] for cut, pair in found.items()} for k in (0, 1))
    return Trained(tuple(losses), tuple(accuracies), accuracy, final)


@torch.no_grad()
def _measured(model: nn.Module, cut: Cut) -> tuple[float, float]:
    """Share of right answers and mean loss, in evaluation mode; 0 and infinity where outputs aren't finite."""
    model.eval()
    inputs, targets = digits()[cut]
    outputs = model(inputs)
    model.train()
    if not bool(outputs.isfinite().all()):
        return 0.0, math.inf
    return (outputs.argmax(1) == targets).double().mean().item(), F.cross_entropy(outputs, targets).item()
