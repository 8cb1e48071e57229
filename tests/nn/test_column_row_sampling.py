"""Winner-take-all column-row sampling: the published numbers by enumeration of all draws, and that nothing is lost on average."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from thalweg.nn import wta_crs_select
from thalweg.nn.column_row_sampling import RowSampling, _select

P = torch.tensor([0.6, 0.2, 0.1, 0.05, 0.05], dtype=torch.float64)
F = torch.tensor([4.0, -2.0, 1.0, 0.5, 0.2], dtype=torch.float64)


def enumerated(p: Tensor, terms: Tensor, k: int, count: int) -> tuple[float, float]:
    """Mean and variance of the estimate over all draws, each with its probability, by the definition alone."""
    order = p.argsort(descending=True)
    certain, rest = order[:count].tolist(), order[count:].tolist()
    left = p[rest].sum().item()
    mean = square = 0.0
    for picks in itertools.product(rest, repeat=k - count):
        chance, value = 1.0, terms[certain].sum().item()
        for i in picks:
            chance *= p[i].item() / left
            value += terms[i].item() * left / (p[i].item() * (k - count))
        mean, square = mean + chance * value, square + chance * value * value
    return mean, square - mean * mean


def drawn(p: Tensor, terms: Tensor, k: int, draws: int, **settings) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        indices, weights = wta_crs_select(p, k, generator=generator, **settings)
        found.append((weights * terms[indices]).sum())
    return torch.stack(found)


@pytest.mark.parametrize(("count", "variance"), [(0, 16.2589), (1, 7.1150), (2, 0.2700)])
def test_published_variances(count: int, variance: float) -> None:
    mean, found = enumerated(P, F, 3, count)
    assert mean == pytest.approx(3.7, abs=1e-12) and found == pytest.approx(variance, abs=1e-3)
    values = drawn(P, F, 3, 1500, deterministic=count / 3 + 0.01)
    assert abs(values.mean() - 3.7) < 4 * (variance / 1500) ** 0.5
    assert values.var() == pytest.approx(variance, rel=0.25)


@pytest.mark.parametrize(
    ("p", "k", "count"),
    [
        ([0.6, 0.2, 0.1, 0.05, 0.05], 3, 1),  # scores 0.3333, 0.2, 0.2: the smaller count of the two
        ([0.2667, 0.1333, 0.1333, 0.4, 0.0667], 3, 1),  # 0.3333, 0.3, 0.3333
        ([0.2, 0.2, 0.2, 0.2, 0.2], 3, 0),
        ([0.5, 0.5, 0.0, 0.0, 0.0], 3, 2),
        ([0.1, 0.9], 1, 0),
    ],
)
def test_adaptive_count(p: list[float], k: int, count: int) -> None:
    probabilities = torch.tensor(p, dtype=torch.float64)
    indices, weights = wta_crs_select(probabilities, k)
    assert sorted(indices[:count].tolist()) == sorted(probabilities.argsort(descending=True)[:count].tolist())
    assert torch.equal(weights[:count], torch.ones(count, dtype=torch.float64))
    assert not set(indices[:count].tolist()) & set(indices[count:][weights[count:] > 0].tolist())


def test_sampling_by_size_of_the_terms() -> None:
    terms = torch.tensor([2.0, 1.0, -1.0, 3.0, 0.5], dtype=torch.float64)
    p = terms.abs() / terms.abs().sum()
    found = [enumerated(p, terms, 3, count)[1] for count in (0, 1, 2)]
    assert found == pytest.approx([8.6667, 7.0, 6.0], abs=1e-3)  # the count's score is a proxy: 2 would be better yet


def test_weights_are_unbiased_term_by_term() -> None:
    p = torch.rand(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 4
    values = drawn(p, torch.eye(12, dtype=torch.float64)[:, :0].sum(1), 5, 1)
    assert values.item() == 0.0
    total, generator = torch.zeros(12, dtype=torch.float64), torch.Generator().manual_seed(2)
    for _ in range(800):
        indices, weights = wta_crs_select(p, 5, generator=generator)
        total.index_add_(0, indices, weights)
    assert ((total / 800 - 1).abs() < 4.5 * ((1 / (p / p.sum())).clamp(min=1) / 800).sqrt()).all()


def test_edges() -> None:
    indices, weights = wta_crs_select(P, 5)
    assert indices.tolist() == [0, 1, 2, 3, 4] and weights.tolist() == [1.0] * 5
    indices, weights = wta_crs_select(P, 3, deterministic=1.0)
    assert indices.tolist() == [0, 1, 2] and weights.tolist() == [1.0] * 3  # nothing is drawn, nothing divided by zero
    indices, weights = wta_crs_select(torch.tensor([0.0, 1.0, 0.0]), 2, deterministic=0.5)
    assert indices[0] == 1 and weights.tolist() == [1.0, 0.0]  # nothing is left
    for _ in range(20):
        assert (wta_crs_select(torch.tensor([0.0, 1.0, 0.0]), 2, deterministic=0.0)[0] == 1).all()
    assert wta_crs_select(torch.tensor([0.9995, 0.0003, 0.0002]), 2, 0.5, drop_tail=1e-3)[1].tolist() == [1.0, 0.0]
    assert wta_crs_select(torch.tensor([0.9995, 0.0003, 0.0002]), 2, 0.5)[1][1] > 1
    assert _select(torch.tensor([0.5, float("nan"), 0.5]), 2, "adaptive", 0.0)[1].isnan().all()
    assert torch.equal(wta_crs_select(7 * P, 3, generator=torch.Generator().manual_seed(3))[0],
                       wta_crs_select(P, 3, generator=torch.Generator().manual_seed(3))[0])  # fmt: skip


def test_settings_spread_a_floor_and_count_rows() -> None:
    sampling = RowSampling(0.3, 10, "adaptive", 0.0, 0.0)
    assert [sampling.rows_of(count) for count in (0, 5, 20, 100)] == [0, 5, 10, 30]
    score = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert (sampling.select(score, 2)[0] == 1).any() and not sampling.select(0 * score, 2)[1].isnan().any()
    seen = {int(i) for _ in range(50) for i in RowSampling(0.3, 1, 0.0, 0.0, 1.0).select(score, 2)[0]}
    assert seen == {0, 1, 2, 3}  # a floor of 1: evenly, whatever the score


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((P, 0), "k must be 1 to 5, the number of terms, not 0"),
        ((P, 6), "k must be 1 to 5, the number of terms, not 6"),
        ((-P, 2), "p must be a vector of finite probabilities of at least 0 with a positive sum"),
        ((P / 0, 2), "p must be a vector of finite probabilities of at least 0 with a positive sum"),
        ((0 * P, 2), "p must be a vector of finite probabilities of at least 0 with a positive sum"),
        ((P[None], 1), "p must be a vector of finite probabilities of at least 0 with a positive sum"),
        ((P, 2, 1.5), "deterministic must be 'adaptive' or a share between 0 and 1, not 1.5"),
        ((P, 2, "most"), "deterministic must be 'adaptive' or a share between 0 and 1, not 'most'"),
        ((P, 2, 0.5, -1.0), "drop_tail must be at least 0 and below 1, not -1.0"),
    ],
)
def test_refusals(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        wta_crs_select(*arguments)
    assert str(caught.value) == message
