import math

import pytest
import torch
from torch.nn import functional as F

from thalweg.probe import fourier_purity
from thalweg.solve import ascend_feature_energy, cyclic_energy, feature_energy, feature_signal, ridge_path_solution
from thalweg.tasks.group_addition import group_table


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def addition(order):
    table = group_table(order)
    X = torch.cat([F.one_hot(table[:, 0], order), F.one_hot(table[:, 1], order)], 1).double()
    return X, F.one_hot(table[:, 2], order).double() - 1 / order


def single(order, k, p, q):
    angle = 2 * math.pi * k * torch.arange(order, dtype=torch.float64) / order
    return torch.cat([torch.cos(angle + p), torch.cos(angle + q)]).unsqueeze(1) / order**0.5


@pytest.mark.parametrize("order", [5, 8, 11])
def test_closed_form_on_addition(order):
    """The Fourier sum against the energy itself, at random weights."""
    w = torch.randn(2 * order, 20, dtype=torch.float64, generator=draws())
    torch.testing.assert_close(cyclic_energy(w), feature_energy(w, *addition(order)))


@pytest.mark.parametrize("k", [1, 4, 5])
def test_one_frequency_is_a_stationary_point_of_energy_a_quarter_of_the_order(k):
    X, Y = addition(11)
    w = single(11, k, 0.7, -0.2).requires_grad_()
    energy = feature_energy(w, X, Y)
    (gradient,) = torch.autograd.grad(energy.sum(), w)
    tangent = gradient - (gradient * w).sum() * w
    assert w.norm().item() == pytest.approx(1) and energy.item() == pytest.approx(11 / 4)
    assert tangent.abs().max() < 1e-12 < gradient.norm()


def test_no_random_direction_is_higher():
    w = torch.randn(22, 500, dtype=torch.float64, generator=draws())
    assert feature_energy(w / w.norm(dim=0), *addition(11)).max() < 11 / 4


def test_a_step_of_ascent_is_that_of_autograd():
    X, Y = torch.randn(9, 4, dtype=torch.float64, generator=draws()), torch.randn(9, 3, dtype=torch.float64)
    w = F.normalize(torch.randn(4, 2, dtype=torch.float64), dim=0).requires_grad_()
    (g,) = torch.autograd.grad(feature_energy(w, X, Y).sum(), w)
    expected = F.normalize(w + 0.01 * (g - (g * w).sum(0) * w), dim=0).detach()
    torch.testing.assert_close(ascend_feature_energy(3 * w.detach(), X, Y, lr=0.01, steps=1).w, expected)


def test_every_ascent_ends_in_one_frequency():
    start = torch.randn(14, 16, dtype=torch.float64, generator=draws())
    found = ascend_feature_energy(start, *addition(7), lr=0.5 / 7, steps=400, keep_every=100)
    assert fourier_purity(found.w).purity.min() > 0.999
    assert found.energy[-1].tolist() == pytest.approx([7 / 4] * 16, rel=1e-6)
    assert found.energy.shape == (5, 16) and (found.energy.diff(dim=0) > -1e-9).all()


def test_signal_vanishes_with_the_ridge_penalty():
    """At the ridge solution the residual is eta (F F^T + eta)^-1 Y; with more features than examples it goes to 0."""
    features = torch.randn(6, 10, dtype=torch.float64, generator=draws())
    Y = torch.randn(6, 3, dtype=torch.float64, generator=draws(1))
    sizes = []
    for eta in (1e-2, 1e-4):
        V = ridge_path_solution(features, Y, [eta])[0]
        inverse = torch.linalg.inv(features @ features.T + eta * torch.eye(6, dtype=torch.float64))
        torch.testing.assert_close(feature_signal(features, Y, V), eta * inverse @ Y @ V.T)
        sizes.append(feature_signal(features, Y, V).norm().item())
    assert sizes[1] / sizes[0] == pytest.approx(1e-2, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": torch.ones(3, 2)}, "must be"),
        ({"Y": torch.ones(5, 2)}, "must be"),
        ({"lr": 0.0}, "positive"),
        ({"start": torch.eye(2) * torch.tensor([1.0, 0.0])}, "zero"),
    ],
)
def test_arguments_that_dont_fit(changes, message):
    arguments = {"start": torch.eye(2), "X": torch.eye(2), "Y": torch.eye(2), "lr": 0.1, "steps": 1}
    with pytest.raises(ValueError, match=message):
        ascend_feature_energy(**(arguments | changes))
