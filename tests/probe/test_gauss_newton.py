import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jacrev, vmap

from thalweg.autodiff import FlatModel
from thalweg.probe import empirical_ntk, full_hessian, gauss_newton_eigenvalues, gauss_newton_trace, sgd_stability


def problem(examples=6, classes=3, hidden=5):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()
    return net, torch.randn(examples, 4, dtype=torch.float64), torch.randint(classes, (examples,))


def gauss_newton(net, X, loss):
    """G, formed as it is defined."""
    f = FlatModel(net)
    J = vmap(jacrev(lambda theta, x: f(theta, x[None])[0]), (None, 0))(f.vector, X)
    q = net(X).softmax(1).detach()
    eye = torch.eye(q.shape[1], dtype=q.dtype).expand(len(X), -1, -1)
    S = torch.diag_embed(q) - q[:, :, None] * q[:, None, :] if loss == "ce" else eye
    return (J.mT @ S @ J).mean(0), J, q, S


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("examples", [3, 40])  # n C below and above P = 43
def test_they_are_the_eigenvalues_of_g(loss, examples):
    net, X, y = problem(examples)
    expected = torch.linalg.eigvalsh(gauss_newton(net, X, loss)[0]).flip(0)
    found = gauss_newton_eigenvalues(net, (X, y), loss, chunk=7)
    assert len(found) == min(len(expected), 3 * examples)
    torch.testing.assert_close(found, expected[: len(found)].clamp(min=0), atol=1e-8, rtol=0)
    assert (expected[len(found) :].abs() < 1e-8).all()


def test_the_softmax_factor_has_the_gram_matrix_it_should():
    net, X, _ = problem()
    _, J, q, S = gauss_newton(net, X, "ce")
    A = q.sqrt()[:, :, None] * (J - q[:, None, :] @ J)
    torch.testing.assert_close(A.mT @ A, J.mT @ S @ J)


def test_linear_softmax_regression_has_no_other_part():
    torch.manual_seed(0)
    net = nn.Linear(4, 3).double()
    X, y = torch.randn(20, 4, dtype=torch.float64), torch.randint(3, (20,))
    H = full_hessian(net, F.cross_entropy, (X, y))
    torch.testing.assert_close(
        gauss_newton_eigenvalues(net, (X, y)), torch.linalg.eigvalsh(H).flip(0), atol=1e-12, rtol=0
    )


def test_torchs_mse_is_twice_that_over_the_number_of_outputs():
    net = nn.Linear(4, 3).double()
    X, y = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    H = full_hessian(net, F.mse_loss, (X, y))
    found = gauss_newton_eigenvalues(net, (X, y), "mse")
    torch.testing.assert_close(found * 2 / 3, torch.linalg.eigvalsh(H).flip(0))


def test_cross_entropy_has_one_rank_less_an_example():
    net, X, y = problem(4)
    found = gauss_newton_eigenvalues(net, (X, y))
    assert len(found) == 12 and (found > 1e-10).sum() == 4 * (3 - 1)


def test_the_model_is_left_as_it_was():
    net, X, y = problem()
    net.append(nn.Dropout(0.9)).train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    first = gauss_newton_eigenvalues(net, (X, y))
    assert torch.equal(first, gauss_newton_eigenvalues(net, (X, y)))
    assert all(m.training for m in net.modules()) and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("loss", ["ce", "mse"])
@pytest.mark.parametrize("examples", [3, 40])
def test_the_trace_is_that_of_g_and_the_sum_of_its_eigenvalues(loss, examples):
    net, X, y = problem(examples)
    G = gauss_newton(net, X, loss)[0]
    found = gauss_newton_trace(net, (X, y), loss, chunk=7)
    assert found == pytest.approx(G.trace().item(), rel=1e-12)
    assert found == pytest.approx(gauss_newton_eigenvalues(net, (X, y), loss).sum().item(), rel=1e-10)
    batched = [(X[:2], y[:2]), (X[2:], y[2:])]
    assert gauss_newton_trace(net, batched, loss) == pytest.approx(found, rel=1e-12)
    assert gauss_newton_trace(net, (X, y), loss, params=["2.bias"]) == pytest.approx(G[-3:, -3:].trace().item())


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_random_signs_give_the_trace_on_average(loss):
    net, X, y = problem(10)
    exact = gauss_newton_trace(net, (X, y), loss)
    draws = [
        gauss_newton_trace(
            net, (X, y), loss, method="hutchinson", probes=10, chunk=4, generator=torch.Generator().manual_seed(seed)
        )
        for seed in range(24)
    ]
    off = torch.tensor(draws) / exact - 1
    error = off.std().item() / len(draws) ** 0.5
    assert abs(off.mean().item()) < 4 * error < 0.2 and off.std().item() <= (2 / 10) ** 0.5


def test_one_sign_of_one_output_is_exact_and_the_type_is_the_models_own():
    """z = +-1 has no spread where the chunk has a single entry."""
    torch.manual_seed(0)
    net, X = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)), torch.randn(6, 4)
    types = []
    net[0].register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    exact = gauss_newton_trace(net, (X, X), "mse")
    assert set(types) == {torch.float64}
    types.clear()
    probed = gauss_newton_trace(net, (X, X), "mse", method="hutchinson", probes=1, chunk=1)
    assert probed == pytest.approx(exact, rel=1e-5) and set(types) == {torch.float32}


def test_where_outputs_fit_the_trace_is_the_hessians_and_that_of_sgds_stability():
    torch.manual_seed(0)
    net, X = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double(), torch.randn(6, 4).double()
    y = net(X).detach()
    found = gauss_newton_trace(net, (X, y), "mse")
    H = full_hessian(net, lambda out, y: 0.5 * (out - y).square().mean(), (X, y))
    assert found == pytest.approx(H.trace().item(), rel=1e-10)
    assert found == pytest.approx(sgd_stability(empirical_ntk(net, X), 0.01).trace, rel=1e-10)
    gradients = [torch.autograd.grad(net(x[None]).sum(), list(net.parameters())) for x in X]
    assert found == pytest.approx(sum(g.square().sum().item() for row in gradients for g in row) / 6, rel=1e-12)


def test_the_trace_leaves_the_model_as_it_was():
    net, X, y = problem()
    net.append(nn.Dropout(0.9)).train()
    for method in ("exact", "hutchinson"):
        assert gauss_newton_trace(net, (X, y), method=method, chunk=1, probes=200) == pytest.approx(
            gauss_newton_trace(net, (X, y)), rel=0.2 if method == "hutchinson" else 0
        )
    assert all(m.training for m in net.modules()) and all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "l1"}, "loss must be 'ce' or 'mse'"),
        ({"method": "lanczos"}, "method must be 'exact' or 'hutchinson', not 'lanczos'"),
        ({"probes": 0}, "probes must be at least 1, not 0"),
    ],
)
def test_bad_arguments_of_the_trace(given, message):
    net, X, y = problem()
    with pytest.raises(ValueError, match=message):
        gauss_newton_trace(net, (X, y), **given)
    with pytest.raises(ValueError, match="outputs must have shape"):
        gauss_newton_trace(nn.Sequential(net, nn.Flatten(0)), (X, y))
    with pytest.raises(ValueError, match="data holds no example"):
        gauss_newton_trace(net, [])


def test_bad_arguments():
    net, X, y = problem()
    with pytest.raises(ValueError, match="loss must be 'ce' or 'mse'"):
        gauss_newton_eigenvalues(net, (X, y), "l1")
    with pytest.raises(ValueError, match=r"above max_exact=10"):
        gauss_newton_eigenvalues(net, (X, y), max_exact=10)
    with pytest.raises(ValueError, match="outputs must have shape"):
        gauss_newton_eigenvalues(nn.Sequential(net, nn.Flatten(0)), (X, y))
