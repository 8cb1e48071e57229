import math

import pytest
import torch

from thalweg.probe import grokking_times


def test_first_steps_above_the_thresholds():
    found = grokking_times(torch.tensor([0, 10, 20, 30]), torch.tensor([0.5, 0.99, 0.8, 1.0]), [0.1, 0.2, 0.94, 0.95])
    assert found == (10, 30) and found.ratio == 3


def test_what_never_happens_is_infinite():
    found = grokking_times([1, 2], [0.5, 0.5], [0.4, 0.4])
    assert found == (math.inf, math.inf) and found.ratio == math.inf
    assert grokking_times([1, 2], [0.5, 1.0], [0.4, 0.4]).ratio == math.inf


def test_own_thresholds():
    assert grokking_times([0, 1], [0.6, 0.7], [0.55, 0.8], fitted=0.6, general=0.5) == (0, 0)


@pytest.mark.parametrize("courses", [([1, 2], [1.0], [1.0, 1.0]), ([], [], [])])
def test_lengths_must_agree(courses):
    with pytest.raises(ValueError, match="one length"):
        grokking_times(*courses)
