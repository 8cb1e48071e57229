import pytest
import torch

from thalweg.linalg import haar
from thalweg.probe import kernel_alignment, representation_alignment, sign_similarity


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scale_does_not_matter_and_order_neither():
    H, L = drawn(6, 4), drawn(6, 9, seed=1)
    K, M = H @ H.T, L @ L.T
    assert kernel_alignment(K, 7 * K).item() == pytest.approx(1)
    assert kernel_alignment(K, M).item() == pytest.approx(kernel_alignment(3 * M, K).item())
    assert 0 < kernel_alignment(K, M) < 1


def test_against_labels_it_is_a_rayleigh_quotient():
    H, y = drawn(7, 3), drawn(7, seed=1)
    K = H @ H.T
    expected = y @ K @ y / (K.norm() * (y @ y))
    assert kernel_alignment(K, torch.outer(y, y)).item() == pytest.approx(expected.item())


def test_centring_is_that_of_the_features():
    H, y = drawn(8, 3) + 5, drawn(8, seed=1)
    centred, t = H - H.mean(0), y - y.mean()
    expected = kernel_alignment(centred @ centred.T, torch.outer(t, t))
    found = kernel_alignment(H @ H.T, torch.outer(y, y), center=True)
    assert found.item() == pytest.approx(expected.item())
    assert kernel_alignment(torch.outer(y, y), torch.outer(t, t), center=True).item() == pytest.approx(1)
    assert kernel_alignment(torch.eye(8).double(), torch.outer(y, y), center=True).item() == pytest.approx(7**-0.5)


def test_stacks_of_kernels():
    H = drawn(3, 5, 4)
    K = H @ H.mT
    found = kernel_alignment(K, K[0])
    assert found.shape == (3,) and found[1].item() == pytest.approx(kernel_alignment(K[1], K[0]).item())


def test_representations_may_turn_and_grow():
    H = drawn(6, 4)
    wider = 3 * H @ haar(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert representation_alignment(H, wider).item() == pytest.approx(1)
    assert representation_alignment(torch.eye(4), torch.diag(torch.tensor([1.0, 0, 0, 0]))).item() == pytest.approx(0.5)


def test_signs():
    H = torch.tensor([[[1.0, -1.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert sign_similarity(H, H[:1].expand(2, 2, 2)).tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match=r"shapes \(2, 2, 2\) and \(2, 2\)"):
        sign_similarity(H, H[0])


@pytest.mark.parametrize(
    ("first", "second", "center", "message"),
    [
        (torch.ones(2, 3), torch.eye(3), False, r"square matrix, not \(2, 3\)"),
        (torch.eye(2), torch.eye(3), False, "of 2 and of 3 examples"),
        (torch.zeros(2, 2), torch.eye(2), False, "a kernel is zero$"),
        (torch.eye(3), torch.full((3, 3), 0.3), True, "after centring"),
    ],
)
def test_bad_kernels(first, second, center, message):
    with pytest.raises(ValueError, match=message):
        kernel_alignment(first, second, center=center)
