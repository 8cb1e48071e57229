import pytest
import torch

from thalweg.probe import expected_loss_course, full_hessian, max_stable_lr, sgd_bound, sgd_stability


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense_radius(J, lr, c):
    """The spectral radius of T written out as a matrix over all p x p ones."""
    n, p = J.shape
    H = J.T @ J / n
    images = []
    for S in torch.eye(p * p, dtype=J.dtype).view(-1, p, p):
        single = sum(torch.outer(g, g) @ S @ torch.outer(g, g) for g in J) / n
        images.append((S - lr * (H @ S + S @ H) + lr**2 * ((1 - c) * H @ S @ H + c * single)).flatten())
    return torch.linalg.eigvals(torch.stack(images)).abs().max().item()


@pytest.mark.parametrize(("n", "p"), [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize(("batch", "replacement", "c"), [(1, True, 1.0), (2, True, 0.5), (3, False, None)])
def test_radius_and_largest_rate_against_the_whole_matrix(n, p, batch, replacement, c):
    J = normal(n, p, seed=n)
    c = (n - batch) / (batch * (n - 1)) if c is None else c
    K = J @ J.T
    lr = max_stable_lr(K, batch, replacement=replacement)
    assert sgd_stability(K, lr, batch, replacement=replacement).radius == pytest.approx(1, abs=1e-8)
    assert dense_radius(J, lr, c) == pytest.approx(1, abs=1e-8)
    above = sgd_stability(K, 1.2 * lr, batch, replacement=replacement).radius
    assert above == pytest.approx(dense_radius(J, 1.2 * lr, c), rel=1e-8) and above > 1


def test_orthogonal_gradients_and_full_batches():
    K = torch.diag(torch.tensor([1.0, 4.0, 9.0]))
    assert max_stable_lr(K) == pytest.approx(2 / 9)
    assert max_stable_lr(K, 3, replacement=False) == pytest.approx(2 / 3)  # 2 over the largest eigenvalue of H, 9 / 3
    found = sgd_stability(K, 0.1)
    assert (found.trace, found.top, found.gd_bound) == pytest.approx((14 / 3, 3, 2 / 3))


def test_one_example_is_gradient_descent():
    K = torch.tensor([[4.0]])
    assert max_stable_lr(K) == pytest.approx(0.5)
    assert max_stable_lr(K, 1, replacement=False) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_bounds(seed):
    J = normal(6, 4, seed=seed)
    K = J @ J.T
    lr, trace = max_stable_lr(K), K.trace().item() / 6
    assert lr <= sgd_bound(K) <= 2 / trace + 1e-12
    assert lr <= max_stable_lr(K, 2) <= max_stable_lr(K, 6, replacement=False) + 1e-12


def test_simulation_decays_below_and_grows_above():
    J = normal(4, 4, seed=3)
    K, draws = J @ J.T, torch.Generator().manual_seed(0)
    stable = max_stable_lr(K)
    for share in (0.9, 1.1):
        r, losses = torch.ones(20_000, 4, dtype=torch.float64), []
        for _ in range(61):
            losses.append(r.square().sum(1).mean().item() / 8)
            i = torch.randint(4, (len(r),), generator=draws)
            r = r - share * stable * K[i] * r.gather(1, i[:, None])
        exact = expected_loss_course(K, share * stable, torch.ones(4), 60)
        assert losses[:5] == pytest.approx(exact[:5].tolist(), rel=0.05)
        assert (losses[60] < losses[10]) == (exact[60] < exact[10]).item() == (share < 1)


def test_expected_course_of_full_batches_is_gradient_descent():
    J = normal(4, 6)
    K, r = J @ J.T, normal(4, seed=1)
    lr = 0.3 / torch.linalg.matrix_norm(K / 4, 2).item()
    losses = []
    for _ in range(4):
        losses.append(r.square().sum().item() / 8)
        r = r - lr / 4 * K @ r
    assert expected_loss_course(K, lr, normal(4, seed=1), 3, 4, replacement=False).tolist() == pytest.approx(losses)


def test_trace_is_the_hessian_s_where_the_loss_is_zero():
    torch.manual_seed(0)
    net, X = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double(), normal(5, 3)
    y = net(X).detach()
    H = full_hessian(net, lambda out, t: (out - t).square().mean() / 2, (X, y))
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(net(x).sum(), list(net.parameters()))]) for x in X]
    J = torch.stack(rows)
    found = sgd_stability(J @ J.T, 0.01)
    assert found.trace == pytest.approx(H.trace().item()) and found.top == pytest.approx(
        torch.linalg.eigvalsh(H)[-1].item()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.eye(3), 0.0), "lr must be positive"),
        ((torch.eye(3), 0.1, 0), "batch_size must be"),
        ((-torch.eye(3), 0.1), "positive semi-definite"),
        ((torch.zeros(3, 3), 0.1), "not zero"),
        ((torch.ones(3, 3).triu(), 0.1), "symmetric"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sgd_stability(*arguments)
    with pytest.raises(ValueError, match="at most 3"):
        max_stable_lr(torch.eye(3), 4, replacement=False)
