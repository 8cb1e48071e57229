import hashlib

import pytest
import torch

from thalweg.tasks.split import stratified_split


def test_parts_are_disjoint_and_cover_everything():
    labels = torch.arange(103) % 7
    train, valid = stratified_split(labels, 30)
    assert len(valid) == 30
    assert sorted([*train.tolist(), *valid.tolist()]) == list(range(103))


def test_every_class_gives_its_share_within_one():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 13)
    _, valid = stratified_split(labels, 31)
    counts = torch.bincount(labels[valid])
    shares = 31 * torch.bincount(labels) / 93
    assert (counts - shares).abs().max() < 1
    assert counts.sum() == 31


def test_same_seed_same_split_on_every_machine():
    labels = torch.arange(1000) % 10
    train, valid = stratified_split(labels, 200)
    again, _ = stratified_split(labels, 200)
    other, _ = stratified_split(labels, 200, seed=1)
    assert torch.equal(train, again)
    assert not torch.equal(train, other)
    digest = hashlib.sha256(valid.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "bc081c94de3c7821"


def test_first_examples_are_a_fair_sample_of_classes():
    labels = torch.arange(1000) // 100
    train, _ = stratified_split(labels, 200)
    assert len(labels[train][:100].unique()) == 10


@pytest.mark.parametrize("size", [0, 10, -1])
def test_impossible_size(size):
    with pytest.raises(ValueError, match="valid_size must lie between 1 and 9"):
        stratified_split(torch.zeros(10, dtype=torch.int64), size)
