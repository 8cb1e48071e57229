"""The trainings on which ``learning_rates.py`` looks for each rule's best learning rate.

Three families of tasks, three sizes or budgets of each. They are chosen for AdamW's best learning rate to differ between
them: wide and narrow networks, small and large batches, short and longer budgets. The loss that counts is the validation
cross-entropy at the end, for all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

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
    Setting("digits", "perceptron", (24, 2), 32, 60, 111),
    Setting("mnist5k", "convolutions", (4, 32), 32, 50, 121),
    Setting("docs-lm", "decoder", (32, 1, 32), 8, 60, 131),
    Setting("digits", "perceptron", (64, 4), 64, 120, 112),
    Setting("mnist5k", "convolutions", (8, 64), 64, 30, 122),
    Setting("docs-lm", "decoder", (64, 2, 32), 8, 40, 132),
    Setting("digits", "perceptron", (256, 2), 128, 60, 113),
    Setting("mnist5k", "convolutions", (4, 128), 32, 80, 123),
    Setting("docs-lm", "decoder", (96, 1, 32), 4, 80, 133),
)
VALID_EXAMPLES = {"digits": 500, "mnist5k": 500, "docs-lm": 128}


def perceptron(width: int, layers: int) -> nn.Module:
    """64 pixels, ``layers`` ReLU layers of ``width``, 10 classes."""
    sizes = [64, *[width] * layers]
    hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def convolutions(channels: int, hidden: int) -> nn.Module:
    """The network of the task mnist5k, with ``channels`` and twice as many channels and ``hidden`` neurons."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(2 * channels), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(2 * channels * 7 * 7, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 10),
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
