import pytest

from thalweg.data import adapt_regime, sqrt_lr_scale


def test_the_rate_grows_with_the_square_root_of_the_batch():
    assert sqrt_lr_scale(0.1, 2048) == pytest.approx(0.4)
    assert sqrt_lr_scale(0.1, 64, base_batch=256) == pytest.approx(0.05)


def test_the_schedule_stretches_by_whole_factors():
    assert adapt_regime([81, 122], 164, 2048, 128) == ([1296, 1952], 2624)
    assert adapt_regime([10], 20, 129, 128) == ([20], 40)  # rounded up: never fewer updates
    assert adapt_regime([], 5, 128, 128) == ([], 5)


@pytest.mark.parametrize("batches", [(0, 128), (128, 0)])
def test_batch_sizes_must_be_positive(batches):
    with pytest.raises(ValueError, match="at least 1"):
        sqrt_lr_scale(0.1, *batches)
    with pytest.raises(ValueError, match="at least 1"):
        adapt_regime([1], 2, *batches)
