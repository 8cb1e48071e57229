"""The trainings on which ``learning_rates.py`` looks for each rule's best learning rate.

Three families of tasks, two sizes and budgets of two of them. They are chosen for AdamW's best learning rate to differ between
them: wide and narrow networks, small and large batches, short and longer budgets. The loss that counts is the validation
cross-entropy at the end, for all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from thalweg.autodiff import Closure
from thalweg.race.assemble import made_optimizer
from thalweg.race.batches import Reader, index_batches, seed_everything
from thalweg.race.recipe import parse
from thalweg.race.schedule import ScheduledRates, factor
from thalweg.race.trial import EXPLODED
from thalweg.tasks import Task, load
from thalweg.tasks.decoder import Decoder
from thalweg.tasks.docs_lm import spread


@dataclass(frozen=True)
class Setting:
    """One training: a family of tasks, a model of a size, and a budget.

    Args:
        family: name of the built-in task that gives data and loss.
        model: its builder's name below.
        size: arguments of the builder.
        batch_size: examples in a step.
        steps: budget; the learning rate warms up for 5% of them and then falls along a cosine to 0.
        seed: of start and order of the data; each setting has its own, so that luck is part of the spread over settings.
    """

    family: str
    model: str
    size: tuple[int, ...]
    batch_size: int
    steps: int
    seed: int

    @property
    def name(self) -> str:
        """Text such as ``digits 64x2, batch 32, 100 steps``."""
        return f"{self.family} {'x'.join(map(str, self.size))}, batch {self.batch_size}, {self.steps} steps"


SETTINGS = (
    Setting("digits", "perceptron", (24, 2), 32, 40, 111),
    Setting("mnist5k", "convolutions", (4, 32), 32, 40, 121),
    Setting("docs-lm", "decoder", (32, 1, 32), 8, 50, 131),
    Setting("digits", "perceptron", (192, 2), 64, 80, 112),
    Setting("mnist5k", "convolutions", (8, 96), 16, 60, 122),
)
VALID_EXAMPLES = {"digits": 500, "mnist5k": 500, "docs-lm": 128}


def perceptron(width: int, layers: int) -> nn.Module:
    """64 pixels, ``layers`` ReLU layers of ``width``, 10 classes; no biases."""
    sizes = [64, *[width] * layers]
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b, bias=False), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10, bias=False))


def convolutions(channels: int, hidden: int) -> nn.Module:
    """The network of the task mnist5k with ``channels`` and twice as many channels, ``hidden`` neurons, no gains and no biases."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(channels, affine=False), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(2 * channels, affine=False), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * channels * 7 * 7, hidden, bias=False),
        nn.BatchNorm1d(hidden, affine=False), nn.ReLU(), nn.Linear(hidden, 10, bias=False),
    )  # fmt: skip


def decoder(width: int, layers: int, context: int) -> nn.Module:
    """The decoder of the task docs-lm."""
    return Decoder(context=context, embed_dim=width, num_heads=4, num_layers=layers)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "perceptron": perceptron, "convolutions": convolutions, "decoder": decoder,
}  # fmt: skip


def task_of(setting: Setting) -> Task:
    """The built-in task with the setting's model and batch, decided by its loss on part of the validation data."""
    task = _loaded(setting.family)
    train, valid = task.train, task.valid
    if setting.model == "decoder":
        train, valid = (_shortened(data, setting.size[2]) for data in (train, valid))
        inputs, targets = valid.tensors
        valid = TensorDataset(*spread(inputs, targets, VALID_EXAMPLES[setting.family]))
    else:
        valid = Subset(valid, range(VALID_EXAMPLES[setting.family]))
    return dataclasses.replace(
        task, model=partial(MODELS[setting.model], *setting.size), train=train, valid=valid, metric=None, goal="min",
        metric_name="validation loss", batch_size=setting.batch_size, steps=setting.steps,
    )  # fmt: skip


@cache
def _loaded(family: str) -> Task:
    return load(family)


def _shortened(data: Dataset[Any], context: int) -> TensorDataset:
    """Windows cut down to their first ``context`` bytes."""
    assert isinstance(data, TensorDataset)
    return TensorDataset(*(tensor[:, :context] for tensor in data.tensors))


def start_loss(setting: Setting, task: Task) -> float:
    """The validation loss before any step."""
    seed_everything(setting.seed)
    return _valid_loss(task, task.model())


def end_loss(setting: Setting, task: Task, recipe: str, settings: dict[str, float]) -> float:
    """The validation loss after training as a race trains; infinite where the training breaks down.

    This is the race's loop without what takes longer than such a small training: devices, clocks, a warm-up run.
    """
    seed_everything(setting.seed)
    model = task.model().train()
    optimizer = made_optimizer(parse(recipe), settings, model)
    rates, reader = ScheduledRates(optimizer), Reader(task.train, torch.device("cpu"))
    batches = index_batches(len(reader), setting.batch_size, setting.seed, None)
    first = math.inf
    for step in range(setting.steps):
        rates.scale(factor(step / setting.steps, 1 / setting.steps))
        closure = Closure(model, task.loss, *reader(next(batches)))
        if getattr(optimizer, "needs_closure", False):
            loss = float(optimizer.step(closure))
        else:
            loss = closure().item()
            optimizer.step()
        if not math.isfinite(loss) or loss > EXPLODED * first:
            return math.inf
        first = loss if step == 0 else first
    return _valid_loss(task, model)


@torch.no_grad()
def _valid_loss(task: Task, model: nn.Module) -> float:
    model.eval()
    reader = Reader(task.valid, torch.device("cpu"))
    inputs, targets = reader(list(range(len(reader))))
    loss = task.loss(model(inputs), targets).item()
    return loss if math.isfinite(loss) else math.inf
