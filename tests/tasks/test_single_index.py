import pytest
import torch

from thalweg.tasks.single_index import single_index_quadratic


def test_moments():
    x, y, beta = single_index_quadratic(100_000, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(10 * x.T @ x / len(x), torch.eye(10).double(), atol=0.03, rtol=0)
    assert y.mean().item() == pytest.approx(0.5, rel=0.02) and y.square().mean().item() == pytest.approx(0.75, rel=0.05)
    torch.testing.assert_close(y, (x @ beta) ** 2 / 2)


def test_a_given_direction():
    beta = torch.tensor([0.0, 3.0])
    x, y, same = single_index_quadratic(5, 2, beta=beta)
    assert same is beta
    torch.testing.assert_close(y, 4.5 * x[:, 1] ** 2)
    with pytest.raises(ValueError, match="beta of that size"):
        single_index_quadratic(5, 3, beta=beta)
