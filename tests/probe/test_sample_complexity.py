import math

import pytest

from thalweg.probe import sample_complexity

SIZES = (2, 4, 8, 16)


@pytest.mark.parametrize(
    ("errors", "need"),
    [
        ((0.01, 0.01, 0.01, 0.01), 2),
        ((0.3, 0.01, 0.01, 0.01), 4),
        ((0.3, 0.01, 0.2, 0.01), 16),
        ((0.3, 0.03, 0.02, 0.0), 4),
        ((0.01, 0.01, 0.01, 0.2), math.inf),
    ],
)
def test_on_the_grid(errors, need):
    assert sample_complexity(SIZES, errors, 0.03) == need


def test_a_power_law_is_met_between_grid_points():
    assert sample_complexity(SIZES, [1 / n for n in SIZES], 0.1, interpolate=True) == pytest.approx(10)
    assert sample_complexity(SIZES, [0.5, 0.4, 0.0, 0.0], 0.1, interpolate=True) == 8


@pytest.mark.parametrize(
    ("sizes", "errors", "target"),
    [((), (), 0.1), ((2, 4), (0.1,), 0.1), ((4, 2), (0.1, 0.1), 0.1), ((2,), (0.1,), 0.0)],
)
def test_wrong_arguments(sizes, errors, target):
    with pytest.raises(ValueError, match=r"error for each|must be positive"):
        sample_complexity(sizes, errors, target)
