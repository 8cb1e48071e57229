"""Random numbers drawn again."""

from __future__ import annotations

import torch

from thalweg.autodiff import ReplayedDraws


def test_draws_come_again_and_the_generator_goes_on() -> None:
    torch.manual_seed(3)
    draws = ReplayedDraws([torch.device("cpu")])
    first, second = torch.rand(5), torch.rand(5)
    after = torch.get_rng_state()
    for _ in range(2):
        with draws.again():
            assert torch.equal(torch.rand(5), first) and torch.equal(torch.rand(5), second)
    assert torch.equal(torch.get_rng_state(), after)
