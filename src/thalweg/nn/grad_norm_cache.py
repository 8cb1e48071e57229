"""Norms of every token's output gradient at its last visit, by layer and example (arXiv:2305.15265)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


class GradNormCache:
    r"""Remembers :math:`\|\partial L / \partial y_i\|` of every row of every example, for layers that pick rows by it.

    A layer has to pick the rows that it stores before it knows their gradients. Those of the last time that the same example came by
    are the next best thing. One cache serves all layers of a model; a layer's table is made when it first writes.

    It needs examples with a number of their own and rows that stay in place: no packing, no augmentation that moves tokens.
    Each process of a distributed run remembers the examples that it saw itself. Nothing of it is in a model's state dict: after
    a restart the norms are gathered anew.

    Args:
        num_samples: examples in the data set.
        seq_len: most rows (tokens) of an example; 1 for inputs without a sequence.
        dtype: of the tables (default bfloat16: 2 bytes a token and layer).
        device: where the tables live (default the host's memory).

    Raises:
        ValueError: a size below 1, or an id outside of the data set.

    Example:
        >>> cache = GradNormCache(num_samples=100, seq_len=2)
        >>> cache.set_batch(torch.tensor([7, 3]))
        >>> cache.write("query", cache.ids, torch.tensor([1.0, 2.0, 3.0, 4.0]))
        >>> cache.set_batch(torch.tensor([3, 8]))
        >>> cache.read("query", rows=4)
        tensor([3., 4., nan, nan])
    """

    def __init__(
        self,
        num_samples: int,
        seq_len: int = 1,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_samples < 1 or seq_len < 1:
            raise ValueError(f"a cache needs num_samples and seq_len of at least 1, not {num_samples} and {seq_len}")
        self.num_samples, self.seq_len, self.dtype, self.device = num_samples, seq_len, dtype, torch.device(device)
        self.ids: Tensor | None = None
        self.tables: dict[str, Tensor] = {}

    def set_batch(self, ids: Tensor | None) -> None:
        """Say which examples come next, before the forward pass.

        Args:
            ids: numbers of the examples, in the order of the batch: integers of shape (batch,). None: unknown.
        """
        if ids is None:
            self.ids = None
            return
        ids = ids.detach().to(self.device, torch.long).flatten()
        if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < self.num_samples):
            raise ValueError(
                f"ids must lie in 0 ... {self.num_samples - 1}: found {int(ids.min())} ... {int(ids.max())}"
            )
        self.ids = ids

    def read(self, layer: str, rows: int) -> Tensor | None:
        """Norms of the current batch's rows, NaN where there is no entry; None where nothing is known.

        Args:
            layer: the table's name.
            rows: of the batch, example by example.

        Raises:
            ValueError: the rows aren't as many for each example, or more than ``seq_len``.
        """
        if self.ids is None:
            warnings.warn(
                "no examples were named for this batch, so gradient norms are neither used nor kept: "
                "call GradNormCache.set_batch(ids) before the forward pass",
                stacklevel=2,
            )
            return None
        length, rest = divmod(rows, max(len(self.ids), 1))
        if rest or length > self.seq_len:
            raise ValueError(
                f"a batch of {rows} rows doesn't fit {len(self.ids)} examples of at most {self.seq_len} rows each"
            )
        table = self.tables.get(layer)
        return None if table is None else table[self.ids, :length].flatten().float()

    def write(self, layer: str, ids: Tensor, norms: Tensor) -> None:
        """Keep the norms of a batch.

        Args:
            layer: the table's name.
            ids: of the examples.
            norms: one for each row, example by example.
        """
        table = self.tables.get(layer)
        if table is None:
            shape = (self.num_samples, self.seq_len)
            table = self.tables[layer] = torch.full(shape, torch.nan, dtype=self.dtype, device=self.device)
        table[ids, : norms.numel() // max(len(ids), 1)] = norms.view(len(ids), -1).to(self.device, self.dtype)
