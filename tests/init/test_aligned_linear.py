import itertools
import math

import pytest
import torch
from torch import nn

from thalweg.init import aligned_linear_
from thalweg.linalg import haar


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def stack(*widths):
    return [nn.Linear(a, b).double() for a, b in itertools.pairwise(widths)]


def product(layers):
    total = torch.eye(layers[0].in_features, dtype=torch.float64)
    for layer in layers:
        total = layer.weight.detach() @ total
    return total


@pytest.mark.parametrize("widths", [(8, 8, 7), (5, 9, 6, 9, 4), (3, 3), (4, 4, 4, 12)])
def test_the_product_has_the_given_modes(widths):
    layers = stack(*widths)
    U = haar(widths[-1], widths[-1], generator=seeded(1), dtype=torch.float64)
    V = haar(widths[0], widths[0], generator=seeded(2), dtype=torch.float64)
    modes = min(widths[0], widths[-1])
    strength = torch.linspace(0.1, 1, modes, dtype=torch.float64)
    aligned_linear_(layers, U, V, strength, generator=seeded())
    expected = U[:, :modes] * strength @ V[:, :modes].T
    torch.testing.assert_close(product(layers), expected)
    for layer in layers:
        shares = torch.linalg.svdvals(layer.weight)[:modes]
        torch.testing.assert_close(shares, strength.flip(0) ** (1 / len(layers)))
        assert layer.bias.eq(0).all()


def tree_correlation():
    """Eight items, seven internal nodes of a binary tree: +1 in the left subtree, -1 in the right one."""
    rows = []
    for size in (8, 4, 2):
        for start in range(0, 8, size):
            row = torch.zeros(8, dtype=torch.float64)
            row[start : start + size // 2], row[start + size // 2 : start + size] = 1, -1
            rows.append(row)
    return torch.stack(rows) / math.sqrt(8)  # inputs are sqrt(8) times one-hot, so that they are white


def test_gradient_descent_follows_the_closed_form():
    correlation = tree_correlation()
    U, s, Vh = torch.linalg.svd(correlation, full_matrices=False)
    torch.testing.assert_close(s, torch.tensor([1, 0.5**0.5, 0.5**0.5, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64))
    first, second = layers = stack(8, 8, 7)
    lr, u0, worst = 0.01, 1e-3, 0.0
    aligned_linear_(layers, U, Vh.mT, u0, generator=seeded())
    with torch.no_grad():
        for step in range(1, 1501):
            error = correlation - second.weight @ first.weight
            up = error @ first.weight.T
            first.weight += lr * second.weight.T @ error
            second.weight += lr * up
            growth = torch.exp(2 * s * lr * step)
            theory = s * growth / (growth - 1 + s / u0)
            measured = (U.T @ product(layers) @ Vh.T).diagonal()
            worst = max(worst, float(((measured - theory).abs() / s).max()))
    assert worst < 0.02
    assert measured.min() > 0.49  # all modes were learned in the end


@pytest.mark.parametrize(
    ("widths", "U", "V", "strength", "message"),
    [
        ((3, 2, 3), torch.eye(3), torch.eye(3), 0.1, "layer 0 has 2 features, fewer than the 3 modes"),
        ((3, 3), torch.ones(3, 3), torch.eye(3), 0.1, "columns of U are not orthonormal"),
        ((3, 3), torch.eye(4), torch.eye(3), 0.1, r"U must have shape \(3, modes\)"),
        ((3, 3), torch.eye(3), torch.eye(3), 0.0, "strength must be positive"),
    ],
)
def test_bad_arguments(widths, U, V, strength, message):
    with pytest.raises(ValueError, match=message):
        aligned_linear_(stack(*widths), U, V, strength)


def test_layers_must_follow_each_other():
    with pytest.raises(ValueError, match="at least one layer"):
        aligned_linear_([], torch.eye(2), torch.eye(2), 1.0)
    with pytest.raises(ValueError, match="layer 0 gives 3 features but layer 1 takes 4"):
        aligned_linear_([nn.Linear(3, 3), nn.Linear(4, 3)], torch.eye(3), torch.eye(3), 1.0)
