"""m-coherence: small cases by hand, streaming, layers, and a model's own gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.autodiff import per_example_gradients
from thalweg.probe import GradientCoherence, gradient_coherence


def coherence(rows: torch.Tensor, layers: dict[str, int] | None = None, pieces: int = 1):
    collected = GradientCoherence(layers)
    for part in rows.chunk(pieces):
        collected.update(part)
    return collected.compute()


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_numbers_by_hand() -> None:
    found = coherence(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]]))
    assert (found.alpha, found.m_coherence, found.alpha_unbiased, found.n) == (0.25, 1.0, 0.0, 4)


def test_orthogonal_equal_and_opposite_gradients() -> None:
    orthogonal = coherence(torch.diag(torch.tensor([1.0, 2.0, 5.0])))
    assert orthogonal.m_coherence == 1.0 and orthogonal.alpha_unbiased == 0.0
    equal = coherence(torch.ones(7, 3))
    assert equal.m_coherence == 7.0 and equal.alpha == equal.alpha_unbiased == 1.0
    assert coherence(torch.tensor([[3.0, 4.0], [-3.0, -4.0]])).m_coherence == 0.0


def test_zero_gradients() -> None:
    rows = randoms(5, 4)
    more = torch.cat([rows, torch.zeros(3, 4, dtype=rows.dtype)])
    assert coherence(more).m_coherence == pytest.approx(coherence(rows).m_coherence, rel=1e-14)
    assert coherence(more).alpha == pytest.approx(coherence(rows).alpha * 5 / 8, rel=1e-14)
    nothing = coherence(torch.zeros(3, 4))
    assert math.isnan(nothing.m_coherence) and math.isnan(nothing.alpha) and math.isnan(nothing.alpha_unbiased)


def test_scaling_all_changes_nothing_and_scaling_one_does() -> None:
    rows = randoms(6, 9)
    assert coherence(1e-3 * rows).m_coherence == pytest.approx(coherence(rows).m_coherence, rel=1e-12)
    scaled = rows * torch.tensor([5.0, 1, 1, 1, 1, 1])[:, None]
    assert coherence(scaled).m_coherence != pytest.approx(coherence(rows).m_coherence, rel=1e-2)


@pytest.mark.parametrize("pieces", [1, 3, 10])
def test_streaming_and_layers(pieces: int) -> None:
    rows = randoms(10, 7)
    found = coherence(rows, {"a": 3, "b": 4}, pieces)
    whole = (rows.sum(0).square().sum() / rows.square().sum()).item()
    assert found.m_coherence == pytest.approx(whole, rel=1e-12)
    for name, part in (("a", rows[:, :3]), ("b", rows[:, 3:])):
        assert found.per_layer[name] == pytest.approx(coherence(part).m_coherence, rel=1e-12)


def test_sums_of_float32_gradients_are_kept_in_float64() -> None:
    """Next to a stationary point the sum is a small difference of large numbers."""
    rows = torch.cat([torch.full((1000, 1), 1.0), torch.full((1000, 1), -1.0), torch.tensor([[1e-6]])])
    assert coherence(rows, pieces=2001).m_coherence == pytest.approx(1e-12 / 2000, rel=1e-6)


def test_means_of_micro_batches_agree_more() -> None:
    """Of gradients with a common part: alpha over batches of b is b alpha / (1 + (b - 1) alpha), up to sampling."""
    rows = randoms(4000, 5) + 0.5 * randoms(1, 5, seed=1)
    alpha = coherence(rows).alpha_unbiased
    means = rows.view(400, 10, 5).mean(1)
    assert coherence(means).alpha_unbiased == pytest.approx(10 * alpha / (1 + 9 * alpha), rel=0.03)


def test_of_a_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.9), nn.ReLU(), nn.Linear(5, 3)).double()
    x, y = randoms(11, 4), torch.arange(11) % 3
    found = gradient_coherence(model, nn.functional.cross_entropy, (x, y), batch_size=4)
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    rows = per_example_gradients(model, nn.functional.cross_entropy, x, y)
    assert found.m_coherence == pytest.approx(coherence(rows).m_coherence, rel=1e-10)
    assert list(found.per_layer) == [name for name, _ in model.named_parameters()] and found.n == 11
    nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
    total = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert found.m_coherence == pytest.approx((total.square().sum() / rows.square().sum()).item(), rel=1e-10)


def test_refusals_and_reset() -> None:
    collected = GradientCoherence()
    for rows in (None, torch.ones(1, 3)):
        if rows is not None:
            collected.update(rows)
        with pytest.raises(ValueError, match=r"^coherence needs at least two gradients, not \d$"):
            collected.compute()
    with pytest.raises(ValueError, match=r"^gradients must be rows of 3 numbers, not of shape \(2, 4\)$"):
        collected.update(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"^gradients must be rows of 5 numbers, not of shape \(2, 4\)$"):
        GradientCoherence({"a": 5}).update(torch.ones(2, 4))
    collected.update(torch.zeros(1, 3))
    assert collected.compute().n == 2
    collected.reset()
    collected.update(torch.eye(4))
    assert collected.compute().m_coherence == 1.0
