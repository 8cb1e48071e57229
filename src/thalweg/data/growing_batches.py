"""Batches of a size that may change from one to the next, for torch's DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Sized

import torch
from torch.utils.data import Sampler

from thalweg.data.adadagrad import BatchSizeController


class GrowingBatchSampler(Sampler[list[int]]):
    """A ``batch_sampler`` that cuts every epoch's order into batches of the size its controller says by then.

    Every example comes once an epoch, however often the size changes. A DataLoader with workers asks for batches ahead, so that a
    new size arrives ``num_workers * prefetch_factor`` batches late; without workers it holds for the very next one.

    Args:
        dataset: what is drawn from; only its length counts. A controller without ``max_batch`` gets this length.
        controller: says the size.
        drop_last: leave out the rest of an epoch that is smaller than a batch (default False).
        generator: source of the orders; None: torch's own.

    Example:
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from thalweg.data import BatchSizeController, GrowingBatchSampler
        >>> data = TensorDataset(torch.arange(10))
        >>> controller = BatchSizeController(2)
        >>> sizes = []
        >>> for (batch,) in DataLoader(data, batch_sampler=GrowingBatchSampler(data, controller)):
        ...     sizes.append(len(batch))
        ...     controller.batch_size = 4
        >>> sizes
        [2, 4, 4]
    """

    def __init__(
        self,
        dataset: Sized,
        controller: BatchSizeController,
        *,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if len(dataset) < 1:
            raise ValueError("there is nothing to draw batches from")
        self.size, self.controller = len(dataset), controller
        self.drop_last, self.generator = drop_last, generator
        if controller.max_batch is None:
            controller.max_batch = max(len(dataset), controller.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.size, generator=self.generator).tolist()
        start = 0
        while start < self.size:
            batch = order[start : start + self.controller.batch_size]
            if self.drop_last and len(batch) < min(self.controller.batch_size, self.size):
                return
            start += len(batch)
            yield batch
