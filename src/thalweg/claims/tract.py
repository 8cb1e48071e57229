"""With TrAct's first layer a network needs a fraction of the epochs for the same accuracy, whatever model and optimizer.

The claim of arXiv:2410.23970 on small crops of photographs: three models, two optimizers, and a control that whitens the first
layer's inputs once and for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Scale, Verdict
from thalweg.claims.engine.digit_classifier import digits
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.claims.engine.paired import difference
from thalweg.nn import convert_tract
from thalweg.optim import SGD, AdamW
from thalweg.tasks.photo_crops import photo_crops

RULE = """\
Crops of two photographs in 8 classes; a convolutional network, one that begins with patches, a small vision transformer; SGD with
momentum and Adam: six cells. Plain training has 3, 6 or 12 epochs, TrAct 3, 6 or 9, each with its own cosine. Learning rates are
chosen for every cell and arm at 6 epochs, on another seed and other crops. A cell's speed-up is the number of epochs at which plain
training is best, over that at which TrAct's accuracy (mean over seeds, interpolated between its epochs) reaches that best.
A cell counts if its speed-up is at least 1.25 and TrAct's accuracy after 9 epochs is no more than one standard error (of the
paired differences) below plain training's after 12.
Reproduced: at least 4 cells count. Partly: 2 or 3. Not reproduced: fewer.
Control, on the convolutional network: plain training on patches that are whitened by the training set's second moments with the
same ridge, its rate chosen alike. If its accuracy after 9 epochs isn't below TrAct's (95% interval) with one of the optimizers at
least, input whitening explains the gain. A perceptron on MNIST digits is shown; it decides nothing."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=10), "cpu": Scale(seeds=(11, 12, 13), seconds=290)}

PANELS = (
    Panel("SGD", "SGD with momentum", "epochs of the whole training", "test accuracy (%)"),
    Panel("Adam", "Adam", "epochs of the whole training", "test accuracy (%)"),
    Panel("digits", "Perceptron on MNIST digits", "epochs of the whole training", "test accuracy (%)"),
)

LAM, BATCH, TUNING_SEED = 0.1, 64, 1000
OPTIMIZERS = ("SGD", "Adam")
MIDDLES = {"SGD": -1.5, "Adam": -2.5}
CELLS = [(model, optimizer) for model in ("convolutions", "patches", "transformer") for optimizer in OPTIMIZERS]
ARMS = {"plain": (3, 6, 12), "TrAct": (3, 6, 9), "whitened": (9,)}
SIZES = {"smoke": (128, 8), "cpu": (1600, 1)}
"""Crops to train on, and by what the numbers of epochs are divided."""


class VisionTransformer(nn.Module):
    """Sixteen patches of 6 x 6 pixels as tokens of width 32, one block, mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(108, 32)
        self.position = nn.Parameter(0.2 * torch.randn(16, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 8)

    def forward(self, images: Tensor) -> Tensor:
        """Scores ``(B, 8)`` of images ``(B, 3, 24, 24)``."""
        tokens = self.embed(F.unfold(images, 6, stride=6).mT) + self.position
        scores: Tensor = self.head(self.block(tokens).mean(1))
        return scores


class Whitened(nn.Module):
    """A convolution whose weight is multiplied by a fixed matrix: plain steps then are steps on whitened patches."""

    def __init__(self, layer: nn.Conv2d, images: Tensor) -> None:
        super().__init__()
        padding: Any = layer.padding
        patches = F.unfold(images, layer.kernel_size, 1, padding, layer.stride).mT.flatten(0, 1)
        moments = patches.T @ patches / len(patches) + LAM * torch.eye(patches.shape[1])
        values, vectors = torch.linalg.eigh(moments)
        self.root = vectors * values.rsqrt() @ vectors.T
        self.layer = layer
        with torch.no_grad():  # the same function at the start
            layer.weight.copy_((layer.weight.flatten(1) @ (vectors * values.sqrt() @ vectors.T)).view_as(layer.weight))

    def forward(self, images: Tensor) -> Tensor:
        """As the convolution."""
        weight = (self.layer.weight.flatten(1) @ self.root).view_as(self.layer.weight)
        out: Tensor = self.layer._conv_forward(images, weight, self.layer.bias)
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 36, 8),
    ),
    "patches": lambda: nn.Sequential(
        nn.Conv2d(3, 24, 4, stride=4), nn.ReLU(), nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 8)
    ),
    "transformer": VisionTransformer,
    "digits": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)),
}  # fmt: skip


def choose(scale: str, *, report: Report) -> dict[str, float]:
    """Learning rates of every cell and arm at 6 epochs."""
    work = [(*cell, arm) for cell in [*CELLS, ("digits", "SGD")] for arm in _arms(cell[0])]
    rates: dict[str, float] = {}
    for place, (model, optimizer, arm) in enumerate(work):
        report(place / len(work), f"choosing a rate: {model}, {optimizer}, {arm}")

        def scores(
            exponents: list[float], model: str = model, optimizer: str = optimizer, arm: str = arm
        ) -> list[tuple[float, float]]:
            return [_train(model, optimizer, arm, 10**e, 6, TUNING_SEED, scale, "validation") for e in exponents]

        grid = [MIDDLES[optimizer] + 0.5 * k for k in ((-1, 0, 1) if scale == "cpu" else (-1, 0))]
        exponent = best_on_log_grid(scores, grid, widen=3 if scale == "cpu" else 0)
        rates[f"{model}, {optimizer}, {arm}"] = 10**exponent
    return rates


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """Every cell and arm with all its numbers of epochs."""
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    work = [(*cell, arm) for cell in [*CELLS, ("digits", "SGD")] for arm in _arms(cell[0])]
    for place, (model, optimizer, arm) in enumerate(work):
        report(place / len(work), f"{model}, {optimizer}, {arm}")
        rate = chosen[f"{model}, {optimizer}, {arm}"]
        accuracies = []
        for epochs in ARMS[arm]:
            error, _ = _train(model, optimizer, arm, rate, epochs, seed, scale, "test")
            numbers[f"{model}, {optimizer}, {arm}, {epochs} epochs"] = 1 - error
            accuracies.append(100 * (1 - error))
        numbers[f"{model}, {optimizer}, {arm}: rate"] = rate
        panel = "digits" if model == "digits" else optimizer
        at = tuple(map(float, ARMS[arm]))
        role: Any = "measured" if arm == "TrAct" else "control"
        curves.append(Curve(panel, arm if model == "digits" else f"{model}, {arm}", at, tuple(accuracies), role))
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    rows = [m.numbers for m in measurements]

    def every(model: str, optimizer: str, arm: str, epochs: int) -> list[float]:
        return [row[f"{model}, {optimizer}, {arm}, {epochs} epochs"] for row in rows]

    def means(model: str, optimizer: str, arm: str) -> list[float]:
        return [sum(every(model, optimizer, arm, epochs)) / len(rows) for epochs in ARMS[arm]]

    said, counted = [], 0
    for cell in CELLS:
        gain = speed_up(means(*cell, "plain"), means(*cell, "TrAct"))
        found = difference(every(*cell, "TrAct", 9), every(*cell, "plain", 12))
        counted += gain >= 1.25 and found.mean >= -found.error
        said.append(f"{cell[0]}, {cell[1]}: {gain:.2f} times, {100 * found.mean:+.1f} points")
    because = (
        f"{counted} of {len(CELLS)} cells count (speed-up, and accuracy at 9 against 12 epochs): {'; '.join(said)}."
    )
    whitened = [
        difference(every("convolutions", o, "whitened", 9), every("convolutions", o, "TrAct", 9)) for o in OPTIMIZERS
    ]
    explained = None if all(found.below for found in whitened) else "whitening the first layer's inputs once"
    if counted >= 4:
        return Verdict("reproduced", because, explained)
    reason = "the first layer is a small part of what these small networks have to learn"
    if counted >= 2:
        return Verdict("partly", f"{because} Likely reason: {reason}.", explained)
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {reason}.")


def speed_up(plain: list[float], ours: list[float]) -> float:
    """Epochs at which ``plain`` is best over those at which ``ours``, interpolated, gets there; 0 if it never does."""
    best = max(plain)
    goal_epochs = ARMS["plain"][plain.index(best)]
    epochs = ARMS["TrAct"]
    if ours[0] >= best:
        return goal_epochs / epochs[0]
    for k in range(1, len(ours)):
        if ours[k] >= best:
            share = (best - ours[k - 1]) / (ours[k] - ours[k - 1])
            return goal_epochs / (epochs[k - 1] + share * (epochs[k] - epochs[k - 1]))
    return 0.0


def _arms(model: str) -> list[str]:
    return ["plain", "TrAct", "whitened"] if model == "convolutions" else ["plain", "TrAct"]


def _train(
    kind: str, optimizer_name: str, arm: str, lr: float, epochs: int, seed: int, scale: str, cut: Any
) -> tuple[float, float]:
    """Share of wrong answers on a part of the data and loss, after training; the worst there are if it diverged."""
    count, divisor = SIZES[scale]
    parts = digits() if kind == "digits" else photo_crops()
    inputs, targets = (tensor[:count] for tensor in parts["train"])
    torch.manual_seed(seed)
    model: Any = MODELS[kind]()
    if arm == "TrAct":
        convert_tract(model, LAM)
    elif arm == "whitened":
        model[0] = Whitened(model[0], inputs)
    make = {"SGD": lambda: SGD(model, lr=lr, momentum=0.9), "Adam": lambda: AdamW(model, lr=lr, weight_decay=0.0)}
    optimizer = make[optimizer_name]()
    epochs = max(1, epochs // divisor)
    generator, step, steps = torch.Generator().manual_seed(seed), 0, epochs * math.ceil(len(inputs) / BATCH)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            step += 1
    with torch.no_grad():
        inputs, targets = parts[cut]
        scores = model(inputs)
        loss = F.cross_entropy(scores, targets).item()
    wrong = (scores.argmax(1) != targets).double().mean().item()
    return (wrong, loss) if math.isfinite(loss) else (1.0, math.inf)
