import pytest
import torch
from torch import nn

from thalweg.init import aligned_linear_
from thalweg.probe import mode_strengths


def test_diagonal_of_the_rotated_product():
    draws = torch.Generator().manual_seed(0)
    weights = [torch.randn(2, 5, 4, generator=draws), torch.randn(2, 3, 5, generator=draws)]
    U, V = torch.randn(3, 2, generator=draws), torch.randn(4, 2, generator=draws)
    expected = torch.stack([torch.diagonal(U.T @ weights[1][i] @ weights[0][i] @ V) for i in range(2)])
    assert torch.allclose(mode_strengths(weights, U, V), expected, atol=1e-5)


def test_aligned_start_has_the_strength_that_was_asked_for():
    layers = [nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)]
    U, _, Vh = torch.linalg.svd(torch.randn(3, 6), full_matrices=False)
    wanted = torch.tensor([0.1, 0.2, 0.3])
    aligned_linear_(layers, U, Vh.mH, wanted)
    found = mode_strengths([layer.weight for layer in layers], U, Vh.mH)
    assert torch.allclose(found, wanted, atol=1e-6) and not found.requires_grad


@pytest.mark.parametrize(
    ("weights", "U", "V", "message"),
    [
        ([], torch.eye(2), torch.eye(2), "at least one weight"),
        (
            [torch.eye(2)],
            torch.eye(3),
            torch.eye(2),
            r"shapes \(2, modes\) and \(2, modes\), not \(3, 3\) and \(2, 2\)",
        ),
        ([torch.eye(2)], torch.eye(2), torch.eye(2)[:, :1], "must have shapes"),
        ([torch.ones(3, 2), torch.ones(2, 2)], torch.eye(2), torch.eye(2), "a weight takes 2 features but gets 3"),
    ],
)
def test_wrong_sizes(weights, U, V, message):
    with pytest.raises(ValueError, match=message):
        mode_strengths(weights, U, V)
