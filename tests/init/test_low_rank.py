import pytest
import torch

from thalweg.init import aligned_low_rank_, low_rank_matched_


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def start(rank, *shape, **options):
    return low_rank_matched_(torch.empty(*shape, dtype=torch.float64), rank, generator=seeded(), **options)


@pytest.mark.parametrize("shape", [(30, 30), (20, 8), (6, 15)])
def test_rank_and_frobenius_norm(shape):
    full = start(min(shape), *shape, gain=1.25)
    expected = 1.25 / shape[1] ** 0.5 * torch.randn(*shape, generator=seeded(), dtype=torch.float64)
    assert torch.equal(full, expected)
    for rank in (1, 3, 5):
        W = start(rank, *shape, gain=1.25)
        assert torch.linalg.matrix_rank(W) == rank
        assert W.norm().item() == pytest.approx(full.norm().item(), rel=1e-12)
        U, s, Vh = torch.linalg.svd(full, full_matrices=False)
        best = U[:, :rank] * s[:rank] @ Vh[:rank]
        torch.testing.assert_close(W / W.norm(), best / best.norm())


def test_spectral_norm_leaves_the_largest_value():
    full, low = start(12, 12, 12), start(2, 12, 12, norm="spectral")
    torch.testing.assert_close(torch.linalg.svdvals(low)[:2], torch.linalg.svdvals(full)[:2])
    assert low.norm() < full.norm()


def test_a_stack_is_a_stack_of_starts():
    stack = start(2, 3, 7, 7)
    assert torch.linalg.matrix_rank(stack).tolist() == [2, 2, 2]
    torch.testing.assert_close(stack.norm(dim=(1, 2)), start(7, 3, 7, 7).norm(dim=(1, 2)))
    assert not torch.allclose(stack[0], stack[1])


def test_parameters_keep_their_type():
    weight = torch.nn.Linear(5, 4).bfloat16().weight
    assert low_rank_matched_(weight, 2, generator=seeded()) is weight
    assert (
        weight.dtype == torch.bfloat16
        and weight.requires_grad
        and torch.linalg.matrix_rank(weight.float(), atol=0.02) == 2
    )


def test_aligned():
    D = torch.randn(9, 3, generator=seeded(), dtype=torch.float64)
    W = aligned_low_rank_(torch.empty(5, 9, dtype=torch.float64), D, norm=2.5, generator=seeded())
    assert W.norm().item() == pytest.approx(2.5)
    torch.testing.assert_close(W.T @ W / 6.25, D @ D.T / (D @ D.T).trace())
    beta = D[:, 0]
    one = aligned_low_rank_(torch.empty(5, 9, dtype=torch.float64), beta, generator=seeded())
    torch.testing.assert_close(one.T @ one, torch.outer(beta, beta) / (beta @ beta))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: start(0, 4, 4), "between 1 and 4, not 0"),
        (lambda: start(4, 3, 5), "between 1 and 3, not 4"),
        (lambda: start(1, 4), r"shape \(4,\)"),
        (lambda: start(1, 4, 4, norm="nuclear"), "not 'nuclear'"),
        (lambda: aligned_low_rank_(torch.empty(3, 4), torch.ones(3)), r"directions of shape \(3,\)"),
        (lambda: aligned_low_rank_(torch.empty(2, 4), torch.ones(4, 3)), r"directions of shape \(4, 3\)"),
        (lambda: aligned_low_rank_(torch.empty(3, 4), torch.zeros(4)), "are zero"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
