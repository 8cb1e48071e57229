import math

import pytest
import torch

from thalweg.solve import condition_number, gd_path_solution, ridge_path_solution


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
@pytest.mark.parametrize("c", [0.3, 1.0, 1.7])
def test_equals_the_loop(shape, c):
    Z, Y, W0 = normal(*shape), normal(shape[0], 2, seed=1), normal(shape[1], 2, seed=2)
    lr = c / torch.linalg.matrix_norm(Z, 2).item() ** 2
    for start in (None, W0):
        W = torch.zeros_like(W0) if start is None else W0
        for _ in range(50):
            W = W - lr * Z.T @ (Z @ W - Y)
        assert torch.allclose(gd_path_solution(Z, Y, 50, lr=lr, start=start), W, atol=1e-10)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
def test_for_ever_is_the_pseudo_inverse(shape):
    Z, Y, start = normal(*shape), normal(shape[0], 2, seed=1), normal(shape[1], 2, seed=2)
    pinv = torch.linalg.pinv(Z)
    assert torch.allclose(gd_path_solution(Z, Y, math.inf), pinv @ Y)
    from_there = pinv @ Y + start - pinv @ Z @ start
    assert torch.allclose(gd_path_solution(Z, Y, math.inf, start=start), from_there)


def test_by_hand_and_many_at_once():
    Z, Y = torch.diag(torch.tensor([1.0, 0.1], dtype=torch.float64)), torch.ones(2, 1, dtype=torch.float64)
    path = gd_path_solution(Z, Y, [0, 10, math.inf])
    assert path[:, 0, 0].tolist() == [0, 1, 1]
    assert path[:, 1, 0].tolist() == pytest.approx([0, (1 - 0.99**10) / 0.1, 10])


def test_slow_directions_keep_their_digits():
    """At a singular value of 1e-9 one step learns 1e-18 of the way, which 1 - (1 - rate) would lose."""
    Z, Y = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64)), torch.ones(2, 1, dtype=torch.float64)
    assert gd_path_solution(Z, Y, 1)[1].item() == pytest.approx(1e-9, rel=1e-12)


def test_loss_falls_and_norm_grows():
    Z, Y = normal(20, 15), normal(20, 3, seed=1)
    path = gd_path_solution(Z, Y, [0, 1, 5, 50, 200])
    losses = (Z @ path - Y).square().sum((1, 2))
    assert (losses.diff() < 0).all() and (path.square().sum((1, 2)).diff() > 0).all()


def test_singular_values_of_zero_are_not_learnt():
    Z = torch.cat([normal(6, 3), torch.zeros(6, 1, dtype=torch.float64), normal(6, 3)], 1)
    W = gd_path_solution(Z, normal(6, 1, seed=1), math.inf)
    assert W.isfinite().all() and W[3].abs().item() < 1e-12


def test_ridge():
    Z, Y = normal(8, 5), normal(8, 2, seed=1)
    expected = torch.linalg.solve(Z.T @ Z + 0.7 * torch.eye(5, dtype=Z.dtype), Z.T @ Y)
    assert torch.allclose(ridge_path_solution(Z, Y, [0.7])[0], expected)


def test_condition_number():
    assert condition_number(torch.linalg.qr(normal(6, 6))[0]) == pytest.approx(1)
    assert condition_number(torch.zeros(3, 3) + torch.diag(torch.tensor([4.0, 2.0, 1e-14]))) == 2


def test_what_is_refused():
    Z, Y = torch.eye(2), torch.ones(2, 1)
    with pytest.raises(ValueError, match="between 0 and 2"):
        gd_path_solution(Z, Y, 5, lr=2.0)
    with pytest.raises(ValueError, match="0 or more"):
        gd_path_solution(Z, Y, -1)
    with pytest.raises(ValueError, match="rows and columns"):
        gd_path_solution(torch.zeros(0, 3), torch.zeros(0, 1), 1)
