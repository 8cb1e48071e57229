"""Checks of a task's examples: there are some, they are ``(inputs, targets)`` pairs, and their numbers are finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from thalweg.tasks.fault import one_line, user_line
from thalweg.tasks.task import Task, TaskError

SAMPLE = 32
"""Examples in the trial batch, and examples looked at in data that aren't tensors."""


def check_data(task: Task, side: str, where: str) -> tuple[Any, Any]:
    """Check the ``"train"`` or ``"valid"`` side and give a small batch of it.

    Tensors are checked whole, other datasets at 32 examples from first to last. The batch holds examples at equal
    distances and, where targets are whole numbers in a tensor, those with the smallest and the largest one.

    Args:
        task: what to check.
        side: ``"train"`` or ``"valid"``.
        where: the task's source, for messages.

    Returns:
        ``(inputs, targets)`` as the race batches them.

    Raises:
        TaskError: the side is empty, gives something other than pairs, holds NaN or inf, raises, or can't be batched.
    """
    dataset = getattr(task, side)
    size = _size(dataset, side, where)
    chosen = sorted({i * (size - 1) // max(1, min(SAMPLE, size) - 1) for i in range(min(SAMPLE, size))})
    if type(dataset) is TensorDataset:
        _check_tensors(dataset.tensors, side, where)
        targets = dataset.tensors[1]
        if not targets.is_floating_point() and not targets.is_complex() and targets.numel():
            rows = targets.reshape(size, -1)
            chosen = sorted({*chosen, int(rows.amin(1).argmin()), int(rows.amax(1).argmax())})
    return _batch([_example(dataset, index, side, where) for index in chosen], side, where)


def first_batch(task: Task, size: int, where: str) -> tuple[Any, Any]:
    """The first ``size`` training examples, as the race batches them; errors as for :func:`check_data`."""
    return _batch([_example(task.train, index, "train", where) for index in range(size)], "train", where)


def _batch(examples: list[Any], side: str, where: str) -> tuple[Any, Any]:
    try:
        inputs, targets = default_collate(examples)
    except Exception as error:
        raise TaskError(f"{where}: {side}: examples can't be stacked into a batch: {one_line(error)}") from error
    return inputs, targets


def numbers_in(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors, arrays and floats inside ``value``, with how to reach them: ``("input['image']", tensor)``."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind in "fc":
            yield name, torch.as_tensor(value)
    elif isinstance(value, float):
        yield name, torch.tensor(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from numbers_in(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from numbers_in(item, f"{name}[{index}]")


def shapes(value: Any) -> str:
    """How a batch looks, e.g. ``(32, 10) float32`` or ``{'ids': (32, 64) int64}``."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {shapes(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shapes(item) for item in value) + "]"
    return type(value).__name__


def _size(dataset: Any, side: str, where: str) -> int:
    try:
        size = len(dataset)
    except Exception as error:
        raise TaskError(f"{user_line(error, where)}: {side}: len() raised {one_line(error)}") from error
    if size == 0:
        raise TaskError(f"{where}: {side} is empty")
    return size


def _check_tensors(tensors: tuple[Tensor, ...], side: str, where: str) -> None:
    """Every number of a tensor dataset, in one pass."""
    _check_pair(tensors, f"{side} gives", where)
    for name, tensor in zip(("input", "target"), tensors, strict=True):
        bad = ~tensor.isfinite()
        if bad.any():
            index = int(bad.reshape(len(tensor), -1).any(1).nonzero()[0])
            _complain(tensor[index], name, side, index, where)


def _example(dataset: Any, index: int, side: str, where: str) -> Any:
    try:
        example = dataset[index]
    except Exception as error:
        raise TaskError(f"{user_line(error, where)}: {side}[{index}] raised {one_line(error)}") from error
    _check_pair(example, f"{side}[{index}] is", where)
    for part, name in zip(example, ("input", "target"), strict=True):
        for place, numbers in numbers_in(part, name):
            if not numbers.isfinite().all():
                _complain(numbers, place, side, index, where)
    return example


def _check_pair(example: Any, subject: str, where: str) -> None:
    if not isinstance(example, tuple | list):
        raise TaskError(f"{where}: {subject} {_kind(example)}, not an (input, target) pair: there is no target")
    if len(example) == 1:
        raise TaskError(f"{where}: {subject} an input only: there is no target")
    if len(example) != 2:
        raise TaskError(f"{where}: {subject} {len(example)} items, not an (input, target) pair")
    if example[1] is None:
        raise TaskError(f"{where}: {subject} a pair whose target is None: there is no target")


def _complain(numbers: Tensor, place: str, side: str, index: int, where: str) -> None:
    what = "NaN" if numbers.isnan().any() else "inf"
    raise TaskError(f"{where}: {side}[{index}]: the {place} holds {what}")


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
