import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from thalweg.autodiff import batches

X, y = torch.arange(14.0).view(7, 2), torch.arange(7)


class Custom:
    def __len__(self):
        return 7

    def __getitem__(self, i):
        if not 0 <= i < 7:
            raise IndexError
        return X[i], y[i]


@pytest.mark.parametrize(
    "data",
    [
        (X, y),
        [X, y],
        TensorDataset(X, y),
        Custom(),
        DataLoader(TensorDataset(X, y), 3),
        [(X[:3], y[:3]), (X[3:], y[3:])],
    ],
    ids=["tuple", "pair in a list", "dataset", "custom", "loader", "batches"],
)
def test_every_form_gives_the_same_examples_twice(data):
    source = batches(data, 3)
    for _ in range(2):
        inputs, targets = zip(*source, strict=True)
        assert torch.equal(torch.cat(inputs), X) and torch.equal(torch.cat(targets), y)


def test_batch_sizes():
    assert [len(t) for _, t in batches((X, y))] == [7]
    assert [len(t) for _, t in batches((X, y), 3)] == [3, 3, 1]
    assert [len(t) for _, t in batches(Custom(), 4)] == [4, 3]


def test_bad_data():
    with pytest.raises(ValueError, match="7 inputs but 6 targets"):
        batches((X, y[:6]))
    with pytest.raises(ValueError, match="read only once"):
        batches(iter([(X, y)]))
