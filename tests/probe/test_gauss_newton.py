import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import jacrev, vmap

from thalweg.autodiff import FlatModel
from thalweg.probe import full_hessian, gauss_newton_eigenvalues


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


def test_bad_arguments():
    net, X, y = problem()
    with pytest.raises(ValueError, match="loss must be 'ce' or 'mse'"):
        gauss_newton_eigenvalues(net, (X, y), "l1")
    with pytest.raises(ValueError, match=r"above max_exact=10"):
        gauss_newton_eigenvalues(net, (X, y), max_exact=10)
    with pytest.raises(ValueError, match="outputs must have shape"):
        gauss_newton_eigenvalues(nn.Sequential(net, nn.Flatten(0)), (X, y))
