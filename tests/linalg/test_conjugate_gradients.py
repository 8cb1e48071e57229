"""Conjugate gradients against direct solutions, and how it ends where there is none."""

from __future__ import annotations

import pytest
import torch

from thalweg.linalg import conjugate_gradients


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_it_solves(size: int) -> None:
    torch.manual_seed(size)
    root = torch.randn(size, size, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(size), torch.randn(size, dtype=torch.float64)
    solved = conjugate_gradients(lambda v: matrix @ v, b)
    assert solved.status == "converged" and solved.residual <= 1e-10 * b.norm()
    torch.testing.assert_close(solved.x, torch.linalg.solve(matrix, b), rtol=1e-7, atol=1e-9)


def test_as_many_steps_as_eigenvalues() -> None:
    values = vector(1, 1, 1, 5, 5, 9)
    solved = conjugate_gradients(lambda v: values * v, torch.ones(6, dtype=torch.float64))
    assert solved.iterations == 3
    torch.testing.assert_close(solved.x, 1 / values, rtol=1e-12, atol=0)


def test_singular_but_solvable() -> None:
    values = vector(2, 0, 4)
    solved = conjugate_gradients(lambda v: values * v, vector(2, 0, 2))
    assert solved.status == "converged"
    torch.testing.assert_close(solved.x, vector(1, 0, 0.5), rtol=1e-12, atol=1e-15)


def test_how_it_ends() -> None:
    values = vector(1, -2)
    assert conjugate_gradients(lambda v: values * v, vector(0, 1)).status == "not_positive"
    assert conjugate_gradients(lambda v: v * float("nan"), vector(0, 1)).status == "not_positive"
    spread = torch.logspace(0, 6, 50, dtype=torch.float64)
    early = conjugate_gradients(lambda v: spread * v, torch.ones(50, dtype=torch.float64), max_iter=5)
    assert early.status == "max_iter" and early.iterations == 5 and early.residual > 1e-10
    zero = conjugate_gradients(lambda v: values * v, vector(0, 0))
    assert zero.status == "converged" and zero.iterations == 0 and torch.equal(zero.x, vector(0, 0))
    for bad in (torch.ones(2, 2), vector(float("inf"))):
        with pytest.raises(ValueError, match="b must be a finite vector"):
            conjugate_gradients(lambda v: v, bad)


def test_autocast_does_not_round_the_sums() -> None:
    A, b = torch.diag(torch.linspace(1, 3, 6)), torch.linspace(0.3, 1.7, 6)
    outside = conjugate_gradients(lambda v: A.diagonal() * v, b)
    with torch.autocast("cpu", torch.bfloat16):
        inside = conjugate_gradients(lambda v: A.diagonal() * v, b)
    assert torch.equal(inside.x, outside.x) and inside.iterations == outside.iterations
