import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from thalweg.data.labels import labels_of

LABELS = torch.tensor([2, 0, 1])
DATA = TensorDataset(torch.zeros(3, 2), LABELS)


class Named:
    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return 3

    def __getitem__(self, i):
        raise AssertionError("the labels are known without reading examples")


@pytest.mark.parametrize(
    "dataset",
    [DATA, Subset(DATA, [0, 1, 2]), [("a", 2), ("b", 0), ("c", 1)], Named(targets=[2, 0, 1]), Named(labels=LABELS)],
    ids=["tensors", "subset", "list", "targets", "labels"],
)
def test_labels_are_found(dataset):
    assert torch.equal(labels_of(dataset), LABELS)


def test_a_subset_has_its_own_labels():
    assert labels_of(Subset(DATA, [2, 0])).tolist() == [1, 2]


@pytest.mark.parametrize(
    "targets", [torch.zeros(3), torch.zeros(3, 2, dtype=torch.long), torch.zeros(2, dtype=torch.long)]
)
def test_other_targets_are_refused(targets):
    with pytest.raises(ValueError, match="one whole-number label an example"):
        labels_of(Named(targets=targets))
