import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg.data import el2n
from thalweg.registry import lookup


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy_blobs(examples=320, flipped=32):
    """Four far-apart clusters; the labels of the first examples are wrong."""
    generator = seeded(5)
    y = torch.arange(examples) % 4
    X = 3 * torch.eye(4)[y] + 0.5 * torch.randn(examples, 4, generator=generator)
    y[:flipped] = (y[:flipped] + 1) % 4
    return TensorDataset(X, y)


def make_model():
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def test_wrong_labels_score_highest_and_an_offset_leaves_them_out():
    data = noisy_blobs()
    hardest = el2n(data, make_model, seeded(), keep=0.1, epochs=3)
    assert sum(i < 32 for i in hardest) >= 0.9 * 32
    window = el2n(data, make_model, seeded(), keep=0.5, offset=0.12, epochs=3)
    assert len(window) == 160 and sum(i < 32 for i in window) <= 3


def test_the_generator_alone_decides_indices_and_order():
    data = noisy_blobs(80, 8)
    torch.manual_seed(1)
    first = el2n(data, make_model, seeded(3), keep=0.5)
    torch.manual_seed(2)
    again = el2n(data, make_model, seeded(3), keep=0.5)
    torch.manual_seed(3)
    passes = [list(first), list(first)]
    torch.manual_seed(4)
    assert passes == [list(again), list(again)]
    assert passes[0] != passes[1] and sorted(passes[0]) == sorted(passes[1])
    assert len(set(passes[0])) == 40
    other = el2n(data, make_model, seeded(4), keep=0.5)
    assert list(other) != passes[0]


def test_torchs_global_random_state_is_left_alone():
    data = noisy_blobs(80, 8)
    before = torch.get_rng_state()
    el2n(data, make_model, seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_it_drives_a_data_loader_of_any_map_style_data():
    examples = [(x, int(y)) for x, y in noisy_blobs(65, 6)]  # one more than a batch: no batch of one reaches BatchNorm
    sampler = el2n(examples, make_model, seeded(), keep=20, runs=1, epochs=1)
    batches = list(DataLoader(examples, batch_size=8, sampler=sampler))
    assert [len(y) for _, y in batches] == [8, 8, 4]


def test_a_diverging_scoring_run_is_an_error():
    with pytest.raises(ValueError, match="did the scoring run diverge"):
        el2n(noisy_blobs(80, 8), lambda: nn.Linear(4, 4), seeded(), lr=1e38)


def test_it_is_registered_with_a_search_space_that_always_fits():
    entry = lookup("el2n", "data")
    assert entry.target is el2n and set(entry.search) <= set(entry.settings())
    assert entry.search["keep"][2] + entry.search["offset"][2] <= 1
