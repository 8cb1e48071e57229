import itertools

import pytest
import torch

from thalweg.linalg import InfeasibleError, haar
from thalweg.solve import attention_svm, locally_optimal

F64 = torch.float64


def sphere(*shape):
    drawn = torch.randn(*shape, dtype=F64)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def some(n=4, tokens=4, d=4, seed=0):
    torch.manual_seed(seed)
    return sphere(n, tokens, d), sphere(n, d), torch.randint(tokens, (n,))


@pytest.mark.parametrize("norm", ["fro", "nuc"])
def test_one_constraint_by_hand(norm):
    """(1, -1) W (1, 0)' = 1: the shortest solution has rank 1, so both norms agree, at 1 / sqrt(2)."""
    found = attention_svm(torch.eye(2)[None], torch.tensor([[1.0, 0.0]]), torch.tensor([0]), norm)
    assert torch.allclose(found.W, torch.tensor([[0.5, 0.0], [-0.5, 0.0]], dtype=F64), atol=1e-5)
    assert found.support.tolist() == [[False, True]] and torch.linalg.matrix_norm(
        found.W, norm
    ).item() == pytest.approx(0.5**0.5, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_conditions_of_the_optimum(seed):
    """Frobenius: W is a sum of constraints with multipliers >= 0, which vanish where the margin exceeds 1."""
    X, z, selected = some(seed=seed)
    found = attention_svm(X, z, selected)
    ahead = X[torch.arange(4), selected].unsqueeze(1) - X
    assert torch.allclose(torch.einsum("ntd,de,ne->nt", ahead, found.W, z), found.margins)
    others = torch.arange(4) != selected.unsqueeze(1)
    assert (found.margins[others] >= 1 - 1e-8).all() and (found.multipliers >= 0).all()
    assert (found.multipliers * (found.margins - 1)).abs().max() < 1e-8
    assert torch.allclose(torch.einsum("nt,ntd,ne->de", found.multipliers, ahead, z), found.W)
    assert found.gap < 1e-9 and torch.equal(found.support, others & (found.margins < 1 + 1e-6))


def test_nuclear_solution_is_certified_by_its_dual():
    """Weak duality: with all A'(multipliers) of spectral norm 1 at most, no feasible W has a norm below their sum."""
    X, z, selected = some(seed=1)
    shortest, flattest = attention_svm(X, z, selected), attention_svm(X, z, selected, "nuc", tol=1e-7)
    ahead = X[torch.arange(4), selected].unsqueeze(1) - X
    dual = torch.einsum("nt,ntd,ne->de", flattest.multipliers, ahead, z)
    assert (flattest.multipliers >= 0).all() and torch.linalg.matrix_norm(dual, 2) <= 1 + 1e-9
    nuclear, frobenius = (
        [torch.linalg.matrix_norm(w.W, kind).item() for w in (flattest, shortest)] for kind in ("nuc", "fro")
    )
    assert nuclear[0] == pytest.approx(flattest.multipliers.sum().item(), rel=2e-7)
    assert nuclear[0] < nuclear[1] and frobenius[1] < frobenius[0]
    assert flattest.margins[torch.arange(4) != selected.unsqueeze(1)].min() >= 1 - 1e-9
    assert torch.linalg.matrix_rank(flattest.W, rtol=1e-3) < torch.linalg.matrix_rank(shortest.W, rtol=1e-3)


def test_frobenius_against_quadratic_programming():
    from scipy.optimize import minimize

    X, z, selected = some(n=2, tokens=3, d=3, seed=2)
    ahead = X[torch.arange(2), selected].unsqueeze(1) - X
    rows = [torch.outer(ahead[i, t], z[i]).flatten().numpy() for i, t in itertools.product(range(2), range(3))]
    rows = [row for row in rows if row.any()]
    limits = [{"type": "ineq", "fun": lambda w, row=row: row @ w - 1} for row in rows]
    best = minimize(lambda w: w @ w, [0.1] * 9, jac=lambda w: 2 * w, constraints=limits, method="SLSQP", tol=1e-12)
    assert attention_svm(X, z, selected).W.flatten().tolist() == pytest.approx(best.x.tolist(), abs=1e-5)


@pytest.mark.parametrize("norm", ["fro", "nuc"])
def test_scale_and_rotation(norm):
    X, z, selected = some(seed=3)
    found = attention_svm(X, z, selected, norm, tol=1e-8).W
    assert torch.allclose(attention_svm(X, 2 * z, selected, norm, tol=1e-8).W, found / 2, atol=1e-3)
    turn = haar(4, 4, dtype=F64)
    turned = attention_svm(X @ turn.T, z @ turn.T, selected, norm, tol=1e-8).W
    assert torch.allclose(turned, turn @ found @ turn.T, atol=2e-3)


def test_no_separation():
    """A token in the middle of two others can't beat both."""
    X = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]])
    with pytest.raises(InfeasibleError, match="no W scores"):
        attention_svm(X, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))


def test_local_optimality():
    scores = torch.tensor([[1.0, 0.5, 2.0], [0.0, -1.0, -2.0]])
    support = torch.tensor([[False, True, False], [False, True, True]])
    assert locally_optimal(torch.tensor([0, 0]), scores, support)
    support[0, 2] = True
    assert not locally_optimal(torch.tensor([0, 0]), scores, support)


def test_errors():
    X, z, selected = some()
    with pytest.raises(ValueError, match="must be 'fro' or 'nuc', not 'l2'"):
        attention_svm(X, z, selected, "l2")
    with pytest.raises(ValueError, match=r"not \(4, 4, 4\), \(3, 4\) and \(4,\)"):
        attention_svm(X, z[:3], selected)
    with pytest.raises(ValueError, match="at least two tokens"):
        attention_svm(X[:, :1], z, 0 * selected)
    X[0, 0] = X[0, 1]
    with pytest.raises(ValueError, match="remove duplicates"):
        attention_svm(X, z, 0 * selected)
    with pytest.raises(RuntimeError, match="not found in 1 steps"):
        attention_svm(*some(seed=1), "nuc", max_iter=1)
