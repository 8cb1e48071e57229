import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import haar


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.complex64]),
)
def test_the_smaller_side_is_orthonormal(rows, columns, seed, dtype):
    Q = haar(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    gram = Q.mH @ Q if rows >= columns else Q @ Q.mH
    assert Q.shape == (rows, columns) and Q.dtype == dtype
    torch.testing.assert_close(gram, torch.eye(min(rows, columns), dtype=dtype), atol=1e-5, rtol=0)


def test_moments_of_the_trace_are_those_of_the_orthogonal_group():
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([haar(4, 4, generator=generator, dtype=torch.float64) for _ in range(4000)])
    trace = draws.diagonal(dim1=1, dim2=2).sum(1)
    standard_error = 1 / 4000**0.5
    assert abs(trace.mean()) < 4 * standard_error  # without the sign fix the mean is far from 0
    assert abs(trace.square().mean() - 1) < 4 * 2**0.5 * standard_error
    assert abs(draws.square().mean(0) - 0.25).max() < 0.02
    assert abs((torch.linalg.det(draws) > 0).double().mean() - 0.5) < 4 * 0.5 * standard_error


def test_low_precision_is_factored_in_float32():
    Q = haar(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    exact = haar(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    assert torch.equal(Q, exact.bfloat16())


def test_the_generator_decides_and_the_global_state_does_not():
    first = haar(3, 3, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(123)
    assert torch.equal(first, haar(3, 3, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_matrix_is_refused(shape):
    with pytest.raises(ValueError, match="at least one row"):
        haar(*shape)
