from __future__ import annotations

import math

import pytest

from thalweg.claims.engine.paired import difference


def test_interval() -> None:
    found = difference([3.0, 4.0, 5.0], [2.0, 2.0, 2.0])
    assert found.mean == 2.0 and found.error == pytest.approx(1 / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert not found.above and not found.below
    assert difference([3.0, 3.1, 3.2], [2.0, 2.0, 2.0]).above and difference([1.0, 1.1, 1.2], [2.0, 2.0, 2.0]).below


def test_one_seed_shows_nothing() -> None:
    found = difference([3.0], [1.0])
    assert found.mean == 2.0 and found.error == math.inf and not found.above


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0])])
def test_arms_that_do_not_pair(first, second) -> None:
    with pytest.raises(ValueError, match="paired arms need as many seeds each"):
        difference(first, second)
