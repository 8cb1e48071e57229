import pytest
import torch

from thalweg.solve import MatrixSensing, asymmetric_rate, factored_gd, rebalance_, symmetric_tail


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=draws(seed), dtype=torch.float64)


def test_adjoint():
    sensing = MatrixSensing.gaussian(7, 4, 5, generator=draws())
    Z, y = normal(4, 5), normal(7, seed=1)
    assert (sensing(Z) @ y).item() == pytest.approx((Z * sensing.adjoint(y)).sum().item(), rel=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_step_is_autograd_s(symmetric):
    """The measurements aren't symmetric, so the symmetric step must be."""
    sensing = MatrixSensing.gaussian(30, 5, 5, generator=draws(3))
    target = normal(5, 5)
    target = target @ target.T
    found = factored_gd(
        sensing, sensing(target), 2, lr=0.1, steps=1, init_scale=0.5, symmetric=symmetric, generator=draws()
    )
    F, G = (part.clone().requires_grad_() for part in found.start)
    if symmetric:
        loss = (sensing(F @ F.T) - sensing(target)).square().sum() / 4
    else:
        loss = (sensing(F @ G.T) - sensing(target)).square().sum() / 2
    loss.backward()
    assert found.loss[0].item() == pytest.approx(loss.item(), rel=1e-12)
    assert torch.allclose(found.F, (F - 0.1 * F.grad).detach(), atol=1e-12)
    if not symmetric:
        assert torch.allclose(found.G, (G - 0.1 * G.grad).detach(), atol=1e-12)


def test_rebalancing_keeps_the_product():
    F, G = 1e-3 * normal(2, 6, 3), normal(2, 5, 3, seed=1)
    product = F @ G.mT
    rebalance_(F, G, 2.0)
    assert torch.allclose(F @ G.mT, product, atol=1e-15)
    assert torch.allclose(F.mT @ F, 4 * torch.eye(3, dtype=F.dtype).expand(2, 3, 3), atol=1e-12)


def test_rebalancing_a_lost_direction_stays_finite():
    F, G = torch.diag(torch.tensor([1.0, 0.0])), torch.ones(2, 2)
    rebalance_(F, G)
    assert F.isfinite().all() and G.isfinite().all()


def test_imbalance_drifts_by_the_square_of_the_step():
    target, lr = normal(4, 4), 0.1
    found = factored_gd(MatrixSensing(4, 4), target, 2, lr=lr, steps=1, init_scale=0.3, generator=draws())
    F, G = found.start
    R = F @ G.T - target
    drift = (found.F.T @ found.F - found.G.T @ found.G) - (F.T @ F - G.T @ G)
    assert torch.allclose(drift, lr**2 * (G.T @ R.T @ R @ G - F.T @ R @ R.T @ F), atol=1e-13)


def test_scalar_modes():
    """Nothing to fit: x <- x - lr x^3, and f' = f - lr f g^2."""
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    scale = (0.1 / normal(1, 1)).item()  # so that the start is 0.1 exactly
    found = factored_gd(
        MatrixSensing(1, 1), nothing, 1, lr=0.2, steps=1000, init_scale=scale, symmetric=True, generator=draws()
    )
    assert found.start[0].item() == pytest.approx(0.1)
    assert (4 * found.loss[1]).item() == pytest.approx(0.0998**4, rel=1e-9)
    expected = symmetric_tail(torch.tensor(1000.0), 0.2, 0.01).item()
    assert (4 * found.loss[-1]).item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("symmetric", [False, True])
def test_exact_rank_is_fast(symmetric):
    Q = torch.linalg.qr(normal(20, 2))[0]
    found = factored_gd(
        MatrixSensing(20, 20),
        Q @ Q.T,
        2,
        lr=0.2,
        steps=200,
        init_scale=0.05,
        symmetric=symmetric,
        target=Q @ Q.T,
        generator=draws(),
    )
    assert found.error[-1] < 1e-20


def test_surplus_rank_follows_the_closed_forms():
    Q, P = (torch.linalg.qr(normal(20, 2, seed=seed))[0] for seed in (1, 2))
    sensing = MatrixSensing(20, 20)
    one = factored_gd(
        sensing, Q @ Q.T, 3, lr=0.2, steps=1500, init_scale=0.1, symmetric=True, target=Q @ Q.T, generator=draws()
    )
    assert one.error[-1].item() == pytest.approx(symmetric_tail(torch.tensor(1500.0), 0.2, 18 * 0.01).item(), rel=0.1)
    target, scales = Q @ P.T, torch.tensor([0.02, 0.04], dtype=torch.float64)
    two = factored_gd(sensing, target, 3, lr=0.2, steps=1500, init_scale=scales, target=target, generator=draws())
    rate = (two.error[1200] / two.error[1500]).log() / 300
    assert torch.allclose(rate, asymmetric_rate(*two.start, target, 0.2), rtol=0.05)
    assert two.imbalance.shape == (1501, 2)
    again = factored_gd(
        sensing, target, 3, lr=0.2, steps=250, init_scale=scales, rebalance_at=200, target=target, generator=draws()
    )
    assert torch.equal(again.rebalanced, torch.tensor([200, 200]))
    assert torch.allclose(again.error[:200], two.error[:200], rtol=1e-9)
    assert torch.allclose((again.error[215] / again.error[240]).log() / 25, torch.tensor(0.4463).double(), rtol=0.01)


def test_the_time_to_rebalance_is_found():
    Q = torch.linalg.qr(normal(20, 2))[0]
    found = factored_gd(
        MatrixSensing(20, 20),
        Q @ Q.T,
        3,
        lr=0.2,
        steps=200,
        init_scale=0.003,
        rebalance_at="auto",
        target=Q @ Q.T,
        generator=draws(),
    )
    assert 20 < found.rebalanced < 150 and found.error[-1] < 1e-20


def test_what_is_refused():
    sensing, y = MatrixSensing(2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="rank must lie between 1 and 2"):
        factored_gd(sensing, y, 3, lr=0.1, steps=1)
    with pytest.raises(ValueError, match="square matrix"):
        factored_gd(sensing, y, 1, lr=0.1, steps=1, symmetric=True)
    with pytest.raises(ValueError, match="nothing to rebalance"):
        factored_gd(MatrixSensing(2, 2), torch.zeros(2, 2), 1, lr=0.1, steps=1, symmetric=True, rebalance_at=1)
    with pytest.raises(ValueError, match="must have shape"):
        MatrixSensing(2, 3, torch.zeros(5, 3, 2))
    with pytest.raises(ValueError, match="rank must be 1"):
        asymmetric_rate(torch.ones(3, 2), torch.ones(3, 2), torch.eye(3), 0.1)
