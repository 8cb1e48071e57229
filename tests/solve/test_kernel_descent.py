import math

import pytest
import torch

from thalweg.nn import TwoLayerNTK
from thalweg.solve import early_stopping_time, kernel_gd_path, relu_ntk


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kernel_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 3**0.5 / 2], [3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    K = relu_ntk(z, z)
    assert K.diagonal().tolist() == pytest.approx([0.5, 0.5, 0.5, 12.5, 0.0], abs=1e-7)
    assert K[0, 1] == 0 and K[0, 2].item() == pytest.approx(1 / 6) and torch.equal(K, K.mT)
    assert relu_ntk(z[:1], -2 * z[:1]).item() == pytest.approx(0, abs=1e-7)


def test_kernel_is_the_mean_over_random_units():
    """Half a million units: relu'(w z) relu'(w z') z z' has a mean within 1% of the closed form's scale."""
    z, w = normal(4, 3), normal(500_000, 3, seed=1)
    active = (z @ w.T > 0).double()
    assert torch.allclose((z @ z.T) * (active @ active.T) / len(w), relu_ntk(z, z), atol=0.01 * relu_ntk(z, z).max())


def test_kernel_is_that_of_the_network():
    """By autograd: products of derivatives by the trained layer, within and between the outputs."""
    net = TwoLayerNTK(3, 2, 40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = normal(4, 3)
    rows = torch.stack(
        [torch.autograd.grad(out, net.weight, retain_graph=True)[0].flatten() for out in net(z).flatten()]
    )
    K = (rows @ rows.T).unflatten(0, (4, 2)).unflatten(2, (4, 2))  # (input, output, input, output)
    expected = relu_ntk(z, z)
    near = 0.03 * expected.max()
    for i, j in ((0, 0), (1, 1)):
        assert torch.allclose(K[:, i, :, j], expected, atol=near)
    assert K[:, 0, :, 1].abs().max() < near


@pytest.mark.parametrize("c", [0.3, 1.0, 1.9])
def test_path_is_that_of_the_loop(c):
    Z, Z_test, Y = normal(6, 9), normal(4, 9, seed=1), normal(6, 2, seed=2)
    K, lr = Z @ Z.T, c * 6 / torch.linalg.matrix_norm(Z, 2).item() ** 2
    W, rows = torch.zeros(9, 2, dtype=torch.float64), []
    for _ in range(31):
        rows.append(Z_test @ W)
        W = W - lr / 6 * Z.T @ (Z @ W - Y)
    found = kernel_gd_path(K, Y, range(31), K_test=Z_test @ Z.T, lr=lr)
    assert torch.allclose(found, torch.stack(rows), atol=1e-10)


def test_first_step_and_limit():
    Z, Y = normal(5, 8), normal(5, 1, seed=1)
    K = Z @ Z.T
    lr = 5 / torch.linalg.eigvalsh(K)[-1].item()
    assert torch.allclose(kernel_gd_path(K, Y, 1), lr / 5 * K @ Y)
    assert torch.allclose(kernel_gd_path(K, Y, math.inf), Y)
    doubled = torch.cat([K, K], 0), torch.cat([Y, Y])  # an example twice: the kernel is singular
    twice = kernel_gd_path(torch.cat([doubled[0], doubled[0]], 1), doubled[1], [10, math.inf])
    assert torch.allclose(twice[1], doubled[1]) and torch.allclose(twice[0, :5], kernel_gd_path(K, Y, 10))


def test_path_refuses():
    K, Y = torch.eye(2), torch.ones(2, 1)
    for lr in (4.1, 0.0, math.nan):
        with pytest.raises(ValueError, match="at most 2"):
            kernel_gd_path(K, Y, 5, lr=lr)
    assert kernel_gd_path(K, Y, 2, lr=4.0).tolist() == [[0.0], [0.0]]  # exactly at the limit it swings for ever
    with pytest.raises(ValueError, match="0 or more"):
        kernel_gd_path(K, Y, -1)
    with pytest.raises(ValueError, match="square"):
        kernel_gd_path(K[:1], Y, 1)
    with pytest.raises(ValueError, match="no positive"):
        kernel_gd_path(-K, Y, 1)


@pytest.mark.parametrize(("sigma", "stop"), [(0.05, 13), (0.01, 338), (0.18, 1), (0.2, 0)])
def test_stop_by_hand(sigma, stop):
    """One eigenvalue of 1: the rule is sqrt(k) <= 1 / (2 e sigma)."""
    assert early_stopping_time(torch.ones(1), sigma) == stop == math.floor((1 / (2 * math.e * sigma)) ** 2)


@pytest.mark.parametrize("lr", [None, 0.2, 1.5])
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_stop_is_the_last_step_of_a_scan(sigma, lr):
    eigenvalues = 1 / torch.arange(1.0, 30, dtype=torch.float64) ** 2
    eta = 1.0 if lr is None else lr

    def allowed(k):
        complexity = (sum(min(v, 1 / (eta * k)) for v in eigenvalues.tolist()) / len(eigenvalues)) ** 0.5
        return complexity <= 1 / (2 * math.e * sigma * eta * k)

    found = early_stopping_time(eigenvalues, sigma, lr=lr)
    assert [k for k in range(1, 3000) if allowed(k)] == list(range(1, found + 1))


def test_more_noise_stops_earlier_and_stray_eigenvalues_do_nothing():
    eigenvalues = 1 / torch.arange(1.0, 30, dtype=torch.float64)
    stops = [early_stopping_time(eigenvalues, sigma) for sigma in (0.001, 0.01, 0.1, 1.0)]
    assert stops == sorted(stops, reverse=True) and len(set(stops)) == 4
    zeros = torch.zeros(5, dtype=torch.float64)
    padded = [early_stopping_time(torch.cat([eigenvalues, zeros + stray]), 0.01) for stray in (0.0, -1e-17)]
    assert padded[0] == padded[1]


def test_stop_refuses():
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma"):
            early_stopping_time(torch.ones(2), sigma)
    with pytest.raises(ValueError, match="no eigenvalue"):
        early_stopping_time(torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match="lr"):
        early_stopping_time(torch.ones(2), 1.0, lr=0.0)
