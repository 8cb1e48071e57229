import math

import pytest
import torch

from thalweg.probe import effective_rank

KINDS = ("stable", "participation", "entropy")


@pytest.mark.parametrize("kind", KINDS)
def test_equal_singular_values_are_counted(kind):
    W = torch.zeros(5, 7, dtype=torch.float64)
    W[:3, :3] = 4 * torch.eye(3)
    assert effective_rank(W, kind).item() == pytest.approx(3)
    assert effective_rank(torch.eye(6), kind).item() == pytest.approx(6)
    assert effective_rank(torch.outer(torch.arange(1.0, 4), torch.ones(4)).double(), kind).item() == pytest.approx(1)


def test_by_hand():
    W = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    expected = {
        "stable": 10 / 9,
        "participation": 100 / 82,
        "entropy": math.exp(0.75 * math.log(4 / 3) + math.log(4) / 4),
    }
    for kind in KINDS:
        assert effective_rank(W, kind).item() == pytest.approx(expected[kind])


def test_participation_is_that_of_the_gram_matrix():
    W = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    K = W.mT @ W
    expected = K.diagonal(dim1=1, dim2=2).sum(1).square() / K.square().sum((1, 2))
    torch.testing.assert_close(effective_rank(W), expected)


def test_bad_arguments():
    with pytest.raises(ValueError, match="not 'rank'"):
        effective_rank(torch.eye(2), "rank")
    with pytest.raises(ValueError, match="no effective rank"):
        effective_rank(torch.zeros(2, 2))
