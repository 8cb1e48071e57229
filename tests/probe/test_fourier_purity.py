import math

import pytest
import torch

from thalweg.probe import fourier_purity

M = 13


def wave(k, phase=0.0):
    return torch.cos(2 * math.pi * k * torch.arange(M, dtype=torch.float64) / M + phase)


def test_two_waves_have_their_share_of_the_power():
    mixed = 3 * wave(2, 0.3) + wave(5, 1.0)
    found = fourier_purity(torch.stack([torch.cat([mixed, mixed]), torch.cat([wave(4), 7 + wave(4, 2.0)])], 1))
    assert found.purity.tolist() == pytest.approx([0.9, 1.0])
    assert found.frequency.tolist() == [2, 4]
    assert found.power[0].item() == pytest.approx(2 * M**2 / 4 * 10)


def test_both_inputs_must_share_the_frequency():
    assert fourier_purity(torch.cat([wave(1), wave(2)]).unsqueeze(1)).purity.item() == pytest.approx(0.5)
    assert fourier_purity(wave(1).unsqueeze(1), blocks=1).purity.item() == pytest.approx(1.0)


def test_units_without_weight_count_nothing():
    weights = torch.stack([torch.cat([wave(1), wave(1)]), torch.zeros(2 * M, dtype=torch.float64)], 1)
    found = fourier_purity(weights)
    assert found.purity[1] == 0 and found.mean == pytest.approx(1.0)
    assert fourier_purity(torch.zeros(2 * M, 3)).mean == 0.0


@pytest.mark.parametrize("shape", [(7, 2), (4, 2), (6,)])
def test_shapes_that_are_no_blocks(shape):
    with pytest.raises(ValueError, match="weights must be"):
        fourier_purity(torch.ones(*shape))
