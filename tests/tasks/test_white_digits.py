import pytest
import torch

from thalweg.tasks.white_digits import class_modes, white_digits


def test_inputs_are_white():
    x, labels = white_digits(20)
    assert x.shape == (5000, 20) and labels.bincount().tolist() == [500] * 10
    assert torch.allclose(x.T @ x / 5000, torch.eye(20, dtype=x.dtype), atol=1e-9)
    assert x.mean(0).abs().max() < 1e-9


def test_nine_modes_rebuild_the_class_means():
    U, s, V = class_modes(20)
    x, labels = white_digits(20)
    means = torch.stack([x[labels == c].mean(0) for c in range(10)])
    assert torch.allclose(U * s @ V.T, means / 10, atol=1e-9)
    assert (s > 0.1).all() and torch.allclose(U.sum(0), torch.zeros(9, dtype=U.dtype), atol=1e-9)


@pytest.mark.parametrize("dim", [0, 785])
def test_wrong_dim(dim):
    with pytest.raises(ValueError, match="dim must lie between 1 and"):
        white_digits(dim)
