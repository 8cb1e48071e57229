import math

import pytest
import torch

from thalweg.solve import l1_subgradient, sign_rip_scale, sign_spectral_init, subgm


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_subgradient_is_autograd_s():
    A, y, U = normal(40, 5, 5), normal(40, seed=1), normal(2, 5, 3, seed=2).requires_grad_()
    loss, D = l1_subgradient(A, y, U)
    loss.sum().backward()
    assert torch.allclose(2 * D @ U, U.grad, atol=1e-12)
    assert loss[0].item() == pytest.approx((A * (U[0] @ U[0].T)).sum((1, 2)).sub(y).abs().mean().item())


@pytest.mark.parametrize(("p", "std"), [(0.0, 1.0), (0.3, 2.0), (0.4, 1e9)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_length_of_the_mean_subgradient_by_simulation(p, std, symmetric):
    draws = torch.Generator().manual_seed(0)
    G = torch.randn(200_000, 2, 2, generator=draws, dtype=torch.float64)
    A = (G + G.mT) / math.sqrt(2) if symmetric else G
    X = normal(2, 2)
    X = X + X.T
    noise = std * torch.randn(len(A), generator=draws, dtype=X.dtype) * (torch.rand(len(A), generator=draws) < p)
    seen = (A * X).sum((1, 2))
    length = ((seen - noise).sign() * seen / X.norm()).mean().item()
    assert length == pytest.approx(sign_rip_scale(X.norm().item(), p, std, symmetric=symmetric), rel=0.01)


def test_one_step_by_hand():
    found = subgm(torch.ones(1, 1, 1), torch.ones(1), 1, lr=0.1, steps=1, start=torch.tensor([[0.5]]))
    assert found.U.item() == pytest.approx(0.6)
    polyak = subgm(torch.ones(1, 1, 1), torch.ones(1), 1, lr=0.1, steps=1, step="polyak", start=torch.tensor([[0.5]]))
    assert polyak.U.item() == pytest.approx(0.5 + 0.1 * 0.75)


def test_steps_decay_geometrically():
    """Far from the target the scalar's sub-gradient is -1: U grows by the product of 1 + 2 lr decay^t."""
    found = subgm(torch.ones(1, 1, 1), torch.tensor([1e9]), 1, lr=0.1, decay=0.5, steps=3, start=torch.tensor([[1e-3]]))
    assert found.U.item() == pytest.approx(1e-3 * 1.2 * 1.1 * 1.05)


def test_rotating_the_columns_changes_nothing():
    A, Q = normal(60, 4, 4), torch.linalg.qr(normal(3, 3, seed=5))[0]
    target = torch.diag(torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    start = normal(4, 3, seed=3)
    found = subgm(A, A[:, 0, 0], 3, steps=30, start=torch.stack([start, start @ Q]), target=target)
    assert torch.allclose(found.error[:, 0], found.error[:, 1], rtol=1e-6)


@pytest.mark.parametrize(("p", "step"), [(0.3, "geometric"), (0.0, "polyak")])
def test_the_target_is_found(p, step):
    draws = torch.Generator().manual_seed(0)
    A = torch.randn(400, 6, 6, generator=draws, dtype=torch.float64)
    target = torch.diag(torch.tensor([1.0, 0.5, 0, 0, 0, 0], dtype=torch.float64))
    y = A.flatten(1) @ target.flatten() + 100 * (torch.rand(400, generator=draws) < p)
    found = subgm(A, y, 6, alpha=1e-4, steps=800, step=step, target=target)
    assert found.error[-1] < 5e-3 and found.loss.shape == (801,)


def test_spectral_start_ignores_the_size_of_outliers():
    A = normal(500, 4, 4)
    y, worse = A[:, 1, 1].clone(), A[:, 1, 1].clone()
    y[:100] = 10
    worse[:100] = 1e9
    start = sign_spectral_init(A, y, 2, 0.1)
    assert torch.equal(start, sign_spectral_init(A, worse, 2, 0.1))
    assert start[:, 0].abs().argmax() == 1 and start.shape == (4, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 3}, "rank must lie between 1 and 2"),
        ({"alpha": 0.0}, "must be positive"),
        ({"decay": 1.0}, "decay between 0 and 1"),
        ({"step": "constant"}, "step must be"),
        ({"A": torch.ones(5, 2, 3)}, "must have shape"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        subgm(**({"A": torch.ones(5, 2, 2), "y": torch.ones(5), "rank": 1} | changes))
