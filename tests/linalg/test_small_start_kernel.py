import pytest
import torch

from thalweg.linalg.linear_descent import descent_step_
from thalweg.linalg.small_start_kernel import mean_small_start_alignment, small_start_alignment


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(W1, beta, lr=0.05, steps=1500):
    weights = [W1.clone(), torch.zeros(len(W1), 1, W1.shape[1], dtype=W1.dtype)]
    for _ in range(steps):
        excess = descent_step_(weights, beta.unsqueeze(1), lr)
    assert excess.max() < 1e-6
    return weights


def kernel(W1, w2):
    return W1.mT @ W1 + w2.square().sum((1, 2))[:, None, None] * torch.eye(W1.shape[2], dtype=W1.dtype)


def cosine(K, L):
    return (K * L).sum((1, 2)) / (K.norm(dim=(1, 2)) * L.norm(dim=(1, 2)))


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_against_training_from_a_tiny_start(size):
    d, h = 8, 12
    beta = torch.nn.functional.normalize(torch.randn(6, d, generator=seeded(), dtype=torch.float64), dim=1) * size
    W1 = 1e-4 * torch.randn(6, h, d, generator=seeded(1), dtype=torch.float64)
    W1[3:] = W1[3:, :, :1] @ W1[3:, :1]  # rank one
    after = trained(W1, beta, lr=0.05 / size)
    K0 = W1.mT @ W1
    limit = size * (torch.eye(d, dtype=W1.dtype) + beta[:, :, None] * beta[:, None] / size**2)
    torch.testing.assert_close(kernel(*after), limit, rtol=0, atol=2e-3 * size)
    torch.testing.assert_close(cosine(K0, kernel(*after)), small_start_alignment(K0, beta), rtol=1e-3, atol=0)


def test_what_the_flow_conserves():
    W1 = torch.randn(1, 5, 4, generator=seeded(), dtype=torch.float64)
    beta = torch.randn(1, 4, generator=seeded(1), dtype=torch.float64)
    drift = []
    for lr in (0.04, 0.02):
        a, w = trained(W1, beta, lr=lr, steps=int(30 / lr))
        drift.append((a @ a.mT - w.mT @ w - W1 @ W1.mT).norm().item())
    assert drift[1] < 0.6 * drift[0] < 0.1  # of the order of the step


def test_mean_over_targets():
    W1 = torch.randn(10, 6, generator=seeded(), dtype=torch.float64)
    K0 = W1.T @ W1
    beta = torch.randn(100_000, 6, generator=seeded(1), dtype=torch.float64)
    participation = K0.trace() ** 2 / K0.square().sum()
    found = mean_small_start_alignment(participation, 6)
    assert small_start_alignment(K0, beta).mean().item() == pytest.approx(found.item(), rel=2e-3)


def test_extremes():
    b = torch.zeros(32, dtype=torch.float64)
    b[4] = 3.0
    assert small_start_alignment(torch.outer(b, b), b).item() == pytest.approx(2 / 35**0.5)
    assert small_start_alignment(torch.eye(32).double(), b).item() == pytest.approx(33 / (32 * 35) ** 0.5)
    assert mean_small_start_alignment(32.0, 32) == pytest.approx(33 / (32 * 35) ** 0.5)
    assert [round(mean_small_start_alignment(p, 32), 4) for p in (1, 2, 3.96, 21.2)] == [0.1743, 0.2465, 0.3469, 0.8026]
