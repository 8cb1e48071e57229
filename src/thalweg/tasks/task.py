"""What a race trains on: data, a model builder, a loss and the metric that decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset


class TaskError(ValueError):
    """A task that can't be raced; the message is one line that says what is wrong and where."""


@dataclass(frozen=True)
class Task:
    """One training problem.

    Args:
        name: short name, shown in tables.
        model: builds a fresh model. It is called after torch's global seed has been set, so plain ``torch.nn`` construction is
            reproducible. ``model()(inputs)`` gives ``outputs``.
        train: map-style dataset of ``(inputs, targets)`` pairs, or a pair of tensors ``(X, y)`` of equal length.
        valid: the same, held out; the metric is measured on it.
        loss: ``loss(outputs, targets) -> scalar tensor``, the mean over the batch, differentiable.
        metric: ``metric(outputs, targets) -> number``, the mean over the batch. ``None``: the loss.
        metric_name: what tables call the metric.
        goal: whether the metric should go down (``"min"``) or up (``"max"``).
        batch_size: examples in a training batch.
        steps: default budget, in optimizer steps.
        eval_every: steps between evaluations; ``None``: a twenty-fifth of the budget.
        target: metric value that counts as done; ``None``: the race takes what every fresh baseline seed reaches.
        source: where the task came from, for messages ("mnist5k", "my_task.py").

    Example:
        >>> import torch
        >>> from torch import nn
        >>> X = torch.randn(256, 3); y = X.sum(1, keepdim=True)
        >>> task = Task("sum", lambda: nn.Linear(3, 1), (X[:200], y[:200]), (X[200:], y[200:]), nn.functional.mse_loss)
        >>> len(task.train)
        200
    """

    name: str
    model: Callable[[], nn.Module]
    train: Dataset[Any]
    valid: Dataset[Any]
    loss: Callable[[Any, Any], Tensor]
    metric: Callable[[Any, Any], Any] | None = None
    metric_name: str = "loss"
    goal: Literal["min", "max"] = "min"
    batch_size: int = 64
    steps: int = 300
    eval_every: int | None = None
    target: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        for key in ("name", "metric_name"):
            if not isinstance(getattr(self, key), str):
                raise TaskError(f"{self.name}: {key} must be a string, not {getattr(self, key)!r}")
        if isinstance(self.target, Real):  # numpy's too, which JSON doesn't know
            object.__setattr__(self, "target", float(self.target))
        for side in ("train", "valid"):
            object.__setattr__(self, side, _as_dataset(getattr(self, side), f"{self.name}: {side}"))
        if self.goal not in ("min", "max"):
            raise TaskError(f"{self.name}: goal must be 'min' or 'max', not {self.goal!r}")
        for key in ("batch_size", "steps"):
            value = getattr(self, key)
            if not isinstance(value, int) or value < 1:
                raise TaskError(f"{self.name}: {key} must be a positive whole number, not {value!r}")

    def better(self, a: float, b: float) -> bool:
        """Whether metric value ``a`` is better than ``b``."""
        return a < b if self.goal == "min" else a > b


def _as_dataset(data: Any, where: str) -> Dataset[Any]:
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(d, Tensor) for d in data):
        if len(data[0]) != len(data[1]):
            raise TaskError(f"{where} has {len(data[0])} inputs but {len(data[1])} targets")
        return TensorDataset(*data)
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise TaskError(f"{where} must be a map-style dataset or a pair of tensors (X, y), not {type(data).__name__}")
    return data
