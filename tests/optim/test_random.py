"""The counter-based random numbers: their quality, and that shards draw what the whole would."""

from __future__ import annotations

import math

import pytest
import torch

from thalweg.optim.engine.passes import _positions
from thalweg.optim.engine.random import random_bits, standard_normal, stream_key

N = 1_000_000
INDEX = torch.arange(N)


def normal(*key: int) -> torch.Tensor:
    return standard_normal(INDEX, stream_key(*key)).double()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def test_moments() -> None:
    x = normal(0, 1, 0, 1)
    assert abs(x.mean().item()) < 4 / N**0.5
    assert x.var().item() == pytest.approx(1.0, abs=4 * math.sqrt(2 / N))
    assert (x**3).mean().item() == pytest.approx(0.0, abs=4 * math.sqrt(15 / N))
    assert (x**4).mean().item() == pytest.approx(3.0, abs=4 * math.sqrt(96 / N))


def test_distribution_function() -> None:
    """Kolmogorov's distance at the 0.1% level."""
    x = normal(5, 3, 2, 1).sort().values
    distance = (torch.special.ndtr(x) - torch.arange(1, N + 1) / N).abs().max().item()
    assert distance < 1.95 / N**0.5


@pytest.mark.parametrize(
    "other", [(1, 1, 0, 1), (0, 2, 0, 1), (0, 1, 1, 1), (0, 1, 0, 2)], ids=["seed", "step", "parameter", "stream"]
)
def test_neighbouring_streams_are_uncorrelated(other: tuple[int, ...]) -> None:
    x, y = normal(0, 1, 0, 1), normal(*other)
    assert abs(correlation(x, y)) < 4 / N**0.5
    assert abs(correlation(x**2, y**2)) < 4 / N**0.5
    assert abs(correlation(x[1:], y[:-1])) < 4 / N**0.5


@pytest.mark.parametrize("lag", [1, 2, 64, 1000])
def test_neighbouring_positions_are_uncorrelated(lag: int) -> None:
    x = normal(0, 7, 3, 1)
    assert abs(correlation(x[lag:], x[:-lag])) < 4 / N**0.5
    assert abs(correlation(x[lag:] ** 2, x[:-lag] ** 2)) < 4 / N**0.5


def test_one_element_over_many_keys() -> None:
    """A small parameter sees one or two positions under thousands of keys."""
    keys = torch.tensor([stream_key(0, step, 0, 1) for step in range(20_000)])
    for place in (0, 1, 2):
        x = standard_normal(torch.full((20_000,), place), keys).double()
        assert abs(x.mean().item()) < 4 / 20_000**0.5
        assert x.var().item() == pytest.approx(1.0, abs=4 * math.sqrt(2 / 20_000))
        assert abs(correlation(x[1:], x[:-1])) < 4 / 20_000**0.5


def test_every_bit_is_fair() -> None:
    bits = random_bits(INDEX[:100_000], stream_key(0))
    for place in range(64):
        share = ((bits >> place) & 1).double().mean().item()
        assert abs(share - 0.5) < 5 * 0.5 / 100_000**0.5, place


def test_keys_are_distinct() -> None:
    keys = {stream_key(seed, step, number, 1) for seed in range(10) for step in range(30) for number in range(30)}
    assert len(keys) == 9000 and all(-(2**63) <= k < 2**63 for k in keys)
    assert stream_key(-1, 0) != stream_key(1, 0) != stream_key(0, 1)


def test_eager_and_tensor_keys_agree() -> None:
    key = stream_key(3, 4)
    assert torch.equal(random_bits(INDEX[:100], key), random_bits(INDEX[:100], torch.tensor(key)))


@pytest.mark.parametrize(("shape", "dim", "parts"), [((7, 5), 0, 2), ((7, 5), 1, 3), ((4, 3, 6), 1, 2), ((10,), 0, 4)])
def test_shards_draw_what_the_whole_draws(shape: tuple[int, ...], dim: int, parts: int) -> None:
    key = stream_key(0, 1, 2, 1)
    whole = standard_normal(_positions((shape, (0,) * len(shape), shape), torch.device("cpu")), key)
    start, pieces = 0, []
    for piece in whole.tensor_split(parts, dim):
        offsets = tuple(start if d == dim else 0 for d in range(len(shape)))
        pieces.append(standard_normal(_positions((tuple(piece.shape), offsets, shape), torch.device("cpu")), key))
        start += piece.shape[dim]
    assert torch.equal(torch.cat(pieces, dim), whole)


def test_positions_count_elements_in_order() -> None:
    grid = ((2, 3, 4), (0, 0, 0), (2, 3, 4))
    assert torch.equal(_positions(grid, torch.device("cpu")), torch.arange(24).view(2, 3, 4))
    assert _positions(((0, 3), (2, 0), (2, 3)), torch.device("cpu")).shape == (0, 3)
