from __future__ import annotations

import pytest
import torch

from thalweg.autodiff import hutchinson_diagonal


def quadratic(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(len(matrix), generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    return 0.5 * x @ matrix @ x, x


def test_a_diagonal_hessian_is_exact_from_one_rademacher_sample() -> None:
    diagonal = torch.tensor([3.0, -1.0, 0.0, 0.25], dtype=torch.float64)
    loss, x = quadratic(diagonal.diag())
    for seed in range(5):
        (estimate,) = hutchinson_diagonal(loss, [x], generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(estimate, diagonal, rtol=1e-15, atol=0)
        loss, x = quadratic(diagonal.diag())


@pytest.mark.parametrize("probes", ["rademacher", "normal"])
def test_the_mean_is_the_diagonal_of_a_full_hessian(probes) -> None:
    draws = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, generator=draws, dtype=torch.float64)
    matrix = root @ root.T - 2 * torch.eye(6, dtype=torch.float64)
    many = 5000
    loss, x = quadratic(matrix)
    (estimate,) = hutchinson_diagonal(loss, [x], samples=many, probes=probes, generator=draws)
    off = matrix.square().sum(1) - matrix.diag().square()
    variance = off if probes == "rademacher" else off + 2 * matrix.diag().square()
    assert ((estimate - matrix.diag()).abs() < 3.5 * (variance / many).sqrt()).all()
    with pytest.raises(AssertionError):  # and not, say, the sum of a row
        torch.testing.assert_close(estimate, matrix.sum(1), rtol=0.1, atol=0.1)


def test_several_tensors_unused_and_linear_ones() -> None:
    a, b, c = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    estimates = hutchinson_diagonal((a**3).sum() + (2 * b).sum(), [a, b, c])
    torch.testing.assert_close(estimates[0], torch.full((2,), 6.0, dtype=torch.float64))
    assert not estimates[1].any() and not estimates[2].any()
    assert a.grad is None and not any(e.requires_grad for e in estimates)
    assert not hutchinson_diagonal(b.sum(), [b], samples=3)[0].any()


def test_mistakes() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"^samples must be a whole number >= 1, not 0$"):
        hutchinson_diagonal(x.sum(), [x], samples=0)
    with pytest.raises(ValueError, match=r"^probes must be 'rademacher' or 'normal', not 'sobol'$"):
        hutchinson_diagonal(x.sum(), [x], probes="sobol")
    z = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(ValueError, match=r"^Hutchinson's estimate is for real parameters$"):
        hutchinson_diagonal(z.abs().sum(), [z])
