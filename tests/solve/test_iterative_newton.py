import itertools

import pytest
import torch

from thalweg.solve import (
    gd_lstsq,
    iterative_newton_lstsq,
    newton_schulz_inverse,
    online_predictions,
    similarity_of_errors,
)

F64 = torch.float64


def some(n=9, d=4, batch=3, seed=0):
    torch.manual_seed(seed)
    return torch.randn(batch, n, d, dtype=F64), torch.randn(batch, n, dtype=F64)


def test_hand_case():
    found = newton_schulz_inverse(torch.diag(torch.tensor([4.0, 1.0], dtype=F64)), 3, alpha=1 / 16, return_all=True)
    assert found[:, 0, 0].tolist() == [0.25] * 4
    assert found[:, 1, 1].tolist() == pytest.approx([0.0625, 0.12109375, 0.2275238, 0.4032805], abs=1e-7)


@pytest.mark.parametrize("init", ["S", "identity"])
def test_the_residual_squares_itself(init):
    X, _ = some()
    S, eye = X.mT @ X, torch.eye(4, dtype=F64)
    found = newton_schulz_inverse(S, 6, init=init, return_all=True)
    for now, after in itertools.pairwise(found):
        residual = eye - S @ now
        assert torch.allclose(eye - S @ after, residual @ residual, atol=1e-10)
        assert torch.allclose(after, after.mT) and torch.allclose(after @ S, S @ after)


@pytest.mark.parametrize("init", ["S", "identity"])
def test_errors_are_the_eigenvalues(init):
    X, _ = some()
    S = X.mT @ X
    values, vectors = torch.linalg.eigh(S)
    alpha = 0.9 / values[:, -1] ** (2 if init == "S" else 1)
    M = newton_schulz_inverse(S, 5, init=init, alpha=alpha)
    left = (1 - alpha[:, None] * values ** (2 if init == "S" else 1)) ** 32
    assert torch.allclose(vectors.mT @ M @ vectors, torch.diag_embed((1 - left) / values), atol=1e-9)


def test_limits_of_alpha():
    S = torch.diag(torch.tensor([2.0, 1.0], dtype=F64))
    M = 0.5 * S  # exactly 2 / ||S||^2: the upper eigenvalue's residual is -1, then 1 for ever
    for _ in range(20):
        M = M @ (2 * torch.eye(2, dtype=F64) - S @ M)
    assert (1 - S @ M)[0, 0] == pytest.approx(1)
    for bad in (0.5, 0.0, -0.1):
        with pytest.raises(ValueError, match="below 2 / ||S||^2 = 0.5".replace("|", r"\|").replace("^", r"\^")):
            newton_schulz_inverse(S, 1, alpha=bad)
    with pytest.raises(ValueError, match=r"= 1$"):
        newton_schulz_inverse(S, 1, alpha=1.0, init="identity")


def test_fewer_examples_than_dimensions():
    X, y = some(n=3, d=5)
    S = X.mT @ X
    expected = (torch.linalg.pinv(S, rtol=1e-10, hermitian=True) @ X.mT @ y.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(iterative_newton_lstsq(X, y, 20), expected, rtol=1e-5)
    assert torch.allclose(gd_lstsq(X, y, [100_000])[0], expected, rtol=1e-6)


def test_newton_from_the_identity_is_gradient_descent_two_to_the_k():
    X, y = some()
    alpha = 1 / (X.mT @ X).diagonal(dim1=1, dim2=2).sum(-1)
    newton = iterative_newton_lstsq(X, y, 7, init="identity", return_all=True)
    descent = gd_lstsq(X, y, [2**k for k in range(8)], alpha)
    assert torch.allclose(newton, descent)


def test_descent_is_a_loop_of_gradients():
    X, y = some()
    values = torch.linalg.eigvalsh(X.mT @ X)
    lr = 2 / (values[:, 0] + values[:, -1])
    w, found = torch.zeros(3, 4, dtype=F64), gd_lstsq(X, y, list(range(6)))
    for k in range(6):
        assert torch.allclose(found[k], w)
        w = w - lr[:, None] * torch.einsum("bnd,bn->bd", X, torch.einsum("bnd,bd->bn", X, w) - y)


def test_online_protocol():
    X, y = some(n=6)
    found = online_predictions(lambda X, y: torch.stack([iterative_newton_lstsq(X, y, 22), X[..., -1, :]]), X, y)
    assert found.shape == (2, 3, 6) and (found[..., 0] == 0).all()
    last = torch.linalg.lstsq(X[:, :5], y[:, :5].unsqueeze(-1)).solution.squeeze(-1)
    assert torch.allclose(found[0, :, 5], (last * X[:, 5]).sum(-1), rtol=1e-6)
    assert torch.allclose(found[1, :, 3], (X[:, 2] * X[:, 3]).sum(-1))


def test_similarity():
    X, y = some()
    predicted = X[..., 0]
    assert similarity_of_errors(predicted, predicted, y).item() == pytest.approx(1)
    turned = torch.tensor([2, 0, 1])
    other = X[..., 1]
    assert similarity_of_errors(predicted[turned], other[turned], y[turned]).item() == pytest.approx(
        similarity_of_errors(predicted, other, y).item()
    )
    moved = predicted.clone()
    moved[:, 0] += 7  # the first position doesn't count
    assert similarity_of_errors(moved, predicted, y).item() == pytest.approx(1)


def test_errors():
    with pytest.raises(ValueError, match=r"must be square.* not \(2, 3\)"):
        newton_schulz_inverse(torch.ones(2, 3), 1)
    with pytest.raises(ValueError, match="steps must be 0 or more, not -1"):
        newton_schulz_inverse(torch.eye(2), -1)
    with pytest.raises(ValueError, match="init must be 'S' or 'identity', not 'zero'"):
        newton_schulz_inverse(torch.eye(2), 1, init="zero")
    with pytest.raises(ValueError, match="below 2 / s_max = 2"):
        gd_lstsq(torch.eye(2), torch.ones(2), [1], 2.5)
