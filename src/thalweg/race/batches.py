"""Batches in an order that depends on the seed alone, so that recipes are compared on the same data."""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, TensorDataset, default_collate


def derived_seed(seed: int, name: str) -> int:
    """A seed for one purpose of a run, e.g. its data order; different purposes don't share random numbers."""
    return zlib.crc32(f"{seed}:{name}".encode())


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator seeded for one purpose of a run."""
    return torch.Generator().manual_seed(derived_seed(seed, name))


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and :mod:`random`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class Reader:
    """Reads batches of a map-style dataset by index; tensor datasets are indexed once a batch, not once an example.

    Args:
        dataset: gives ``(inputs, targets)`` pairs.
        device: where the batches go.
    """

    def __init__(self, dataset: Dataset[Any], device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        tensors = getattr(dataset, "tensors", None)
        self._tensors = [t.to(device) for t in tensors] if type(dataset) is TensorDataset and tensors else None
        self._many: Callable[[list[int]], list[Any]] | None = getattr(dataset, "__getitems__", None)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __call__(self, indices: Sequence[int]) -> tuple[Any, Any]:
        """The ``(inputs, targets)`` batch at ``indices``, on the device."""
        if self._tensors is not None:
            picked = torch.as_tensor(indices, device=self.device)
            inputs, targets = (t[picked] for t in self._tensors)
            return inputs, targets
        rows = list(indices)
        examples = self._many(rows) if self._many is not None else [self.dataset[i] for i in rows]
        inputs, targets = default_collate(examples)
        return _to(inputs, self.device), _to(targets, self.device)


def index_batches(size: int, batch_size: int, seed: int, sampler: Sampler[int] | None = None) -> Iterator[list[int]]:
    """Endless batches of example indices, a new order every epoch.

    An epoch's last batch is left out where it is smaller than ``batch_size``, unless it is the only one.

    Args:
        size: number of examples.
        batch_size: examples in a batch.
        seed: of the orders.
        sampler: gives the order of every epoch; ``None``: a random permutation of all examples.
    """
    order = generator(seed, "order")
    while True:
        epoch = list(sampler) if sampler is not None else torch.randperm(size, generator=order).tolist()
        if not epoch:
            raise ValueError("the data selection left no example to train on")
        whole = len(epoch) - len(epoch) % batch_size or len(epoch)
        for start in range(0, whole, batch_size):
            yield epoch[start : start + batch_size]


def shares(size: int, batch_size: int, rank: int, world: int) -> Iterator[tuple[list[int], int]]:
    """This rank's evaluation batches with their weights.

    Every rank gets the same number of batches, as collective operations inside a sharded model need; one that has
    nothing left repeats example 0 with weight 0.
    """
    local = range(rank * size // world, (rank + 1) * size // world)
    most = max((r + 1) * size // world - r * size // world for r in range(world))
    for start in range(0, most, batch_size):
        batch = list(local[start : start + batch_size])
        yield (batch, len(batch)) if batch else ([0], 0)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return _like(value, {key: _to(item, device) for key, item in value.items()})
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return _like(value, [_to(item, device) for item in value])
    return value


def _like(value: Any, moved: Any) -> Any:
    """``moved``, a dict or list, in a container of the type of ``value``: one of those that ``default_collate`` keeps."""
    if type(value) in (dict, list):
        return moved
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*moved)
    try:
        if not isinstance(value, MutableMapping | MutableSequence):
            return type(value)(moved)
        kept: Any = copy.copy(value)  # with what a constructor would ask for again, such as a defaultdict's factory
        for place, item in moved.items() if isinstance(moved, dict) else enumerate(moved):
            kept[place] = item
        return kept
    except TypeError:
        return moved  # as default_collate does with a type that can't be made from a dict or list
