import itertools
from collections import OrderedDict, UserDict, UserList, defaultdict, namedtuple
from collections.abc import Sequence
from types import MappingProxyType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from thalweg.race.batches import Reader, derived_seed, index_batches, shares

CPU = torch.device("cpu")


class Pairs(Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {"x": torch.tensor([float(index)])}, index % 2


def test_the_order_depends_on_the_seed_alone():
    first = list(itertools.islice(index_batches(50, 8, seed=3), 20))
    torch.manual_seed(99)
    assert list(itertools.islice(index_batches(50, 8, seed=3), 20)) == first
    assert list(itertools.islice(index_batches(50, 8, seed=4), 20)) != first


def test_every_epoch_is_a_new_order_without_the_rest():
    batches = list(itertools.islice(index_batches(20, 6, seed=0), 6))
    assert all(len(batch) == 6 for batch in batches)
    first, second = itertools.chain(*batches[:3]), itertools.chain(*batches[3:])
    assert len(set(first)) == len(set(second)) == 18
    assert batches[:3] != batches[3:]


def test_a_data_set_smaller_than_a_batch_is_one_batch():
    assert [sorted(batch) for batch in itertools.islice(index_batches(3, 8, seed=0), 2)] == [[0, 1, 2]] * 2


def test_a_sampler_gives_the_order_of_every_epoch():
    assert list(itertools.islice(index_batches(9, 2, 0, sampler=[5, 1, 7]), 3)) == [[5, 1]] * 3
    with pytest.raises(ValueError, match="no example"):
        next(index_batches(9, 2, 0, sampler=[]))


def test_tensors_are_read_at_once_and_the_same_as_one_by_one():
    data = TensorDataset(torch.arange(12).reshape(6, 2), torch.arange(6))
    inputs, targets = Reader(data, CPU)([4, 0])
    assert inputs.tolist() == [[8, 9], [0, 1]]
    assert targets.tolist() == [4, 0]
    slow_inputs, slow_targets = Reader(Subset(data, range(6)), CPU)([4, 0])
    assert torch.equal(inputs, slow_inputs) and torch.equal(targets, slow_targets)


def test_any_map_style_data_set():
    inputs, targets = Reader(Pairs(), CPU)([3, 6])
    assert inputs["x"].tolist() == [[3.0], [6.0]]
    assert targets.tolist() == [1, 0]


Point = namedtuple("Point", "a b")


class Sealed(Sequence):
    """A sequence that can't be changed, made from a list."""

    def __init__(self, items):
        self._items = tuple(items)

    def __len__(self):
        return len(self._items)

    def __getitem__(self, place):
        return self._items[place]


class Kept(Dataset):
    """Inputs in a container of the caller's choice."""

    def __init__(self, wrap):
        self.wrap = wrap

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.wrap(torch.tensor([float(index)])), index


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: Point(x, x + 1),
        lambda x: [x, x + 1],
        lambda x: UserList([x, x + 1]),
        lambda x: Sealed([x, x + 1]),
        lambda x: {"a": x, "b": x + 1},
        lambda x: OrderedDict(a=x, b=x + 1),
        lambda x: UserDict(a=x, b=x + 1),
        lambda x: MappingProxyType({"a": x, "b": x + 1}),
        lambda x: defaultdict(list, a=x, b=x + 1),
    ],
)
def test_containers_stay_what_default_collate_makes_of_them(wrap):
    data = Kept(wrap)
    inputs, targets = Reader(data, CPU)([2, 0])
    collated, _ = default_collate([data[2], data[0]])
    assert type(inputs) is type(collated) is type(wrap(torch.zeros(1)))
    assert [x.tolist() for x in _parts(inputs)] == [[[2.0], [0.0]], [[3.0], [1.0]]]
    assert targets.tolist() == [2, 0]
    assert all(x.device.type == "meta" for x in _parts(Reader(data, torch.device("meta"))([2, 0])[0]))
    if isinstance(inputs, defaultdict):
        assert inputs.default_factory is list


def _parts(container):
    return [container["a"], container["b"]] if hasattr(container, "keys") else list(container)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4))
def test_ranks_share_the_evaluation_and_make_equally_many_batches(size, batch_size, world):
    parts = [list(shares(size, batch_size, rank, world)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    seen = [index for part in parts for batch, weight in part if weight for index in batch]
    assert sorted(seen) == list(range(size))
    assert all(len(batch) == weight or weight == 0 for part in parts for batch, weight in part)


def test_purposes_have_seeds_of_their_own():
    assert len({derived_seed(seed, name) for seed in range(5) for name in ("order", "init", "data")}) == 15
