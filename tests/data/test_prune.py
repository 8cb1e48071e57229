import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thalweg.data import prune_by_score


def test_a_window_below_the_top():
    scores = torch.randperm(100, generator=torch.Generator().manual_seed(0)).double()
    order = scores.argsort()
    kept = prune_by_score(scores, 0.5, offset=0.1)
    assert torch.equal(kept, order[40:90].sort().values)
    assert not set(kept.tolist()) & set(order[90:].tolist())


@given(
    scores=st.lists(st.integers(0, 4), min_size=1, max_size=30),
    mode=st.sampled_from(["max", "min"]),
    data=st.data(),
)
def test_kept_scores_lie_between_the_skipped_and_the_dropped(scores, mode, data):
    keep = data.draw(st.integers(1, len(scores)))
    offset = data.draw(st.integers(0, len(scores) - keep))
    kept = prune_by_score(torch.tensor(scores, dtype=torch.float64), keep, offset=offset, mode=mode).tolist()
    ranking = sorted(range(len(scores)), key=lambda i: (scores[i], i), reverse=mode == "max")
    assert kept == sorted(ranking[offset : offset + keep])


def test_ties_go_by_index():
    assert prune_by_score(torch.zeros(5), 2).tolist() == [3, 4]
    assert prune_by_score(torch.zeros(5), 2, mode="min").tolist() == [0, 1]


def test_stratified_pruning_keeps_the_balance_of_classes():
    scores = torch.arange(12.0)
    labels = torch.tensor([0] * 8 + [1] * 4)
    assert prune_by_score(scores, 0.5).tolist() == [6, 7, 8, 9, 10, 11]
    assert prune_by_score(scores, 0.5, stratify=labels).tolist() == [4, 5, 6, 7, 10, 11]


def test_one_means_all_as_a_part_and_one_as_a_number():
    assert len(prune_by_score(torch.arange(7.0), 1.0)) == 7
    assert len(prune_by_score(torch.arange(7.0), 1)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": 0.0}, "leaves no example"),
        ({"keep": 0}, "leaves no example"),
        ({"keep": 1.5}, "keep must be a part"),
        ({"keep": 11}, "ask for 11 of 10"),
        ({"keep": -1}, "must not be negative"),
        ({"keep": 0.8, "offset": 0.3}, "ask for 11 of 10"),
        ({"keep": 5, "offset": -0.1}, "offset must be a part"),
        ({"keep": 5, "mode": "window"}, "mode must be"),
        ({"keep": 5, "stratify": torch.zeros(3)}, "one class an example"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        prune_by_score(torch.arange(10.0), **arguments)


@pytest.mark.parametrize("scores", [torch.tensor([1.0, float("nan")]), torch.ones(2, 2)])
def test_scores_must_be_flat_and_finite(scores):
    with pytest.raises(ValueError, match="flat and finite"):
        prune_by_score(scores, 1)
