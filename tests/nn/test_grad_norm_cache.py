"""The table of gradient norms: what is read is what was written, and what doesn't fit is refused."""

from __future__ import annotations

import pytest
import torch

from thalweg.nn import GradNormCache


def test_entries_belong_to_examples_and_layers() -> None:
    cache = GradNormCache(5, 3, dtype=torch.float32)
    cache.set_batch(torch.tensor([4, 1]))
    assert cache.read("a", 6) is None
    cache.write("a", cache.ids, torch.arange(6.0))
    cache.write("b", cache.ids, torch.ones(4))  # a shorter batch
    cache.set_batch(torch.tensor([1, 0]))
    torch.testing.assert_close(cache.read("a", 6), torch.tensor([3.0, 4.0, 5.0] + [torch.nan] * 3), equal_nan=True)
    torch.testing.assert_close(cache.read("b", 4), torch.tensor([1.0, 1.0, torch.nan, torch.nan]), equal_nan=True)
    cache.write("a", cache.ids, torch.zeros(6))
    assert not cache.read("a", 6).any()  # zero is an entry: padding has no gradient
    assert {name: table.shape for name, table in cache.tables.items()} == {"a": (5, 3), "b": (5, 3)}


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"^a cache needs num_samples and seq_len of at least 1, not 0 and 4$"):
        GradNormCache(0, 4)
    cache = GradNormCache(5, 3)
    with pytest.raises(ValueError, match=r"^ids must lie in 0 \.\.\. 4: found 2 \.\.\. 5$"):
        cache.set_batch(torch.tensor([2, 5]))
    cache.set_batch(torch.tensor([1, 2]))
    for rows in (5, 8):
        with pytest.raises(
            ValueError, match=rf"^a batch of {rows} rows doesn't fit 2 examples of at most 3 rows each$"
        ):
            cache.read("a", rows)
    cache.set_batch(None)
    with pytest.warns(UserWarning, match="no examples were named for this batch"):
        assert cache.read("a", 6) is None
