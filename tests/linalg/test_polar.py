"""Newton-Schulz: the polynomial it applies to singular values, its invariances, its dtypes and errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.linalg import polar
from thalweg.linalg.haar import haar
from thalweg.linalg.polar import POLAR_EXPRESS, QUINTIC, coefficient_table, newton_schulz, newton_schulz_flops

F64 = torch.float64
sizes = st.integers(1, 8)
seeds = st.integers(0, 10_000)


def randoms(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def rotation(n: int, seed: int) -> torch.Tensor:
    return haar(n, n, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_diagonal() -> None:
    result = newton_schulz(torch.diag(torch.tensor([3.0, 4.0], dtype=F64)), dtype=F64)
    torch.testing.assert_close(result, torch.diag(torch.tensor([0.7229, 1.1192], dtype=F64)), rtol=0, atol=5e-5)


def image(x: float, coefficients: str) -> float:
    """What becomes of singular value ``x`` of a matrix of norm 1."""
    rest = (1 - x * x) ** 0.5
    result = newton_schulz(torch.diag(torch.tensor([x, rest], dtype=F64)), coefficients=coefficients, dtype=F64)
    return result[0, 0].item()


@pytest.mark.parametrize(("x", "expected"), [(0.01, 0.69892), (0.1, 0.71212), (0.5, 0.76544), (1.0, 0.69644)])
def test_quintic_numbers(x: float, expected: float) -> None:
    assert image(x, "quintic") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("x", "expected"), [(0.001, 0.85677), (0.01, 1.07236), (0.1, 0.87167), (0.5, 0.91424), (1.0, 0.89246)]
)
def test_polar_express_numbers(x: float, expected: float) -> None:
    assert image(x, "polar_express") == pytest.approx(expected, abs=1e-5)


def test_range_of_singular_values() -> None:
    quintic = [image(x, "quintic") for x in torch.linspace(0.01, 1, 400, dtype=F64).tolist()]
    assert min(quintic) > 0.68 and max(quintic) < 1.14


def test_polar_express_converges_to_the_polar_factor() -> None:
    """Its last triple is a fixed point at 1, the quintic has none."""
    g = randoms(6, 9)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close(newton_schulz(g, 12, "polar_express", dtype=F64), u @ vh, rtol=0, atol=1e-5)
    assert (newton_schulz(g, 12, dtype=F64) - u @ vh).abs().max() > 0.01


@settings(max_examples=25, deadline=None)
@given(m=sizes, n=sizes, seed=seeds, scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_invariances(m: int, n: int, seed: int, scale: float) -> None:
    g = randoms(m, n, seed=seed)
    result = newton_schulz(g, dtype=F64)
    same = {"rtol": 0, "atol": 1e-8}  # rounding grows by the polynomial's slope at 0 in every step
    torch.testing.assert_close(newton_schulz(scale * g, dtype=F64), result, **same)
    torch.testing.assert_close(newton_schulz(g.mT, dtype=F64), result.mT, **same)
    torch.testing.assert_close(newton_schulz(-g, dtype=F64), -result, **same)
    q, r = rotation(m, seed), rotation(n, seed + 1)
    torch.testing.assert_close(newton_schulz(q @ g @ r, dtype=F64), q @ result @ r, **same)


@settings(max_examples=25, deadline=None)
@given(m=sizes, n=sizes, seed=seeds, coefficients=st.sampled_from(["quintic", "polar_express"]))
def test_singular_vectors_stay_and_values_follow_the_polynomial(m: int, n: int, seed: int, coefficients: str) -> None:
    g = randoms(m, n, seed=seed)
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    table = coefficient_table(coefficients)
    x = s / s.norm() / (1.01 if coefficients == "polar_express" else 1.0)
    for step in range(5):
        a, b, c = table[min(step, len(table) - 1)]
        x = a * x + b * x**3 + c * x**5
    result = newton_schulz(g, coefficients=coefficients, dtype=F64)
    torch.testing.assert_close(result, (u * x) @ vh, rtol=0, atol=1e-8)


def test_low_rank_stays_low_rank() -> None:
    g = randoms(7, 1) @ randoms(1, 5, seed=1)
    values = torch.linalg.svdvals(newton_schulz(g, dtype=F64))
    assert values[0] > 0.6 and values[1] < 1e-9


@pytest.mark.parametrize("shape", [(3, 4, 6), (2, 3, 6, 4), (1, 5, 5)])
def test_stacks_equal_each_matrix(shape: tuple[int, ...]) -> None:
    g = randoms(*shape)
    g[0] *= 100  # each is divided by its own norm
    result = newton_schulz(g, dtype=F64)
    assert result.shape == g.shape
    flat, flat_result = g.view(-1, *shape[-2:]), result.view(-1, *shape[-2:])
    for one, expected in zip(flat, flat_result, strict=True):
        torch.testing.assert_close(newton_schulz(one, dtype=F64), expected, rtol=1e-12, atol=1e-13)


def test_input_is_left_alone_and_zeros_stay_zeros() -> None:
    g = randoms(4, 4)
    copy = g.clone()
    newton_schulz(g, dtype=F64)
    assert torch.equal(g, copy)
    assert not newton_schulz(torch.zeros(3, 4, 2)).any()
    assert newton_schulz(torch.zeros(2, 0, 3)).shape == (2, 0, 3)


def test_below_eps_it_is_divided_by_eps() -> None:
    g = torch.diag(torch.tensor([3e-9, 4e-9], dtype=F64))
    one = newton_schulz(g, 1, (1.0, 0.0, 0.0), eps=1e-7, dtype=F64)
    torch.testing.assert_close(one, g / 1e-7, rtol=1e-14, atol=0)


def test_overflow_is_seen() -> None:
    """The iteration squares its input: what overflows there becomes NaN, not a silent zero."""
    g = torch.full((3, 3), 1e25, dtype=torch.float32)
    assert newton_schulz(g, dtype=torch.float32).isnan().all()


def test_nan_reaches_the_result() -> None:
    g = randoms(3, 3)
    g[0, 0] = float("nan")
    assert newton_schulz(g, dtype=F64).isnan().all()


@pytest.mark.parametrize("fast", [True, False])
def test_default_dtype(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(polar, "_fast_bfloat16", lambda device: fast)
    low = torch.bfloat16 if fast else torch.float32
    for given_, expected in ((torch.float32, low), (torch.bfloat16, low), (torch.float16, low), (F64, F64)):
        assert newton_schulz(randoms(3, 3).to(given_)).dtype is expected
    assert newton_schulz(randoms(3, 3), dtype=torch.float32).dtype is torch.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_low_precision_follows(dtype: torch.dtype, tolerance: float) -> None:
    g = randoms(16, 24)
    error = newton_schulz(g, dtype=dtype).double() - newton_schulz(g, dtype=F64)
    assert error.abs().max() < tolerance


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_float16_input_does_not_overflow(scale: float) -> None:
    g = (scale * randoms(40, 40)).to(torch.float16)
    result = newton_schulz(g, dtype=torch.float32)
    assert result.isfinite().all() and torch.linalg.svdvals(result).max() < 1.3


def test_coefficients() -> None:
    assert coefficient_table("quintic") is QUINTIC and coefficient_table("polar_express") is POLAR_EXPRESS
    assert coefficient_table((1, 2, 3)) == ((1.0, 2.0, 3.0),)
    assert coefficient_table([[1, 2, 3], (4, 5, 6)]) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    g = randoms(4, 4)
    spelled_out = newton_schulz(g, coefficients=[list(t) for t in POLAR_EXPRESS], dtype=F64)
    assert torch.equal(spelled_out, newton_schulz(g, coefficients="polar_express", dtype=F64))


def test_flops() -> None:
    assert newton_schulz_flops(2, 3, 1) == newton_schulz_flops(3, 2, 1) == 4 * 2 * 2 * 3 + 2 * 8
    assert newton_schulz_flops(4, 4, 5) == 5 * newton_schulz_flops(4, 4, 1)


@pytest.mark.parametrize(
    "bad", ["cubic", (), (1.0, 2.0), [(1.0, 2.0)], [(1.0, 2.0, 3.0), (1.0,)], 5, None, ("a", "b", "c")]
)
def test_malformed_coefficients(bad: object) -> None:
    with pytest.raises(
        ValueError, match=r"^(unknown coefficients 'cubic' \(choose|coefficients must be triples \(a, b, c\), not)"
    ):
        newton_schulz(randoms(2, 2), coefficients=bad)


@pytest.mark.parametrize(
    ("stack", "steps", "message"),
    [
        (torch.ones(3), 5, r"newton_schulz needs matrices, not a tensor of shape (3,)"),
        (torch.ones(2, 2), 0, "steps must be at least 1, not 0"),
        (torch.ones(2, 2, dtype=torch.complex64), 5, "newton_schulz needs real matrices, not complex ones"),
    ],
)
def test_wrong_arguments(stack: torch.Tensor, steps: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        newton_schulz(stack, steps)
    assert str(caught.value) == message


def test_exact_polar_factor() -> None:
    g = torch.stack([randoms(5, 3), randoms(5, 3, seed=1) @ torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=F64))])
    factor = polar.polar(g)
    torch.testing.assert_close(
        torch.linalg.svdvals(factor), torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], dtype=F64)
    )
    stretch = factor.mT @ g  # g = factor @ stretch, symmetric and positive
    torch.testing.assert_close(stretch, stretch.mT)
    torch.testing.assert_close(factor @ stretch, g)
    assert torch.linalg.eigvalsh(stretch).min() > -1e-12
    assert not polar.polar(torch.zeros(2, 3)).any()
    g[0, 1, 1] = float("nan")
    assert polar.polar(g)[0].isnan().all() and torch.equal(polar.polar(g)[1], factor[1])


def test_autocast_does_not_reach_the_iteration() -> None:
    g = randoms(6, 4).float()
    outside = newton_schulz(g, dtype=torch.float32), polar.polar(g)
    with torch.autocast("cpu", torch.bfloat16):
        inside = newton_schulz(g, dtype=torch.float32), polar.polar(g)
        assert (g @ g.mT).dtype is torch.bfloat16  # it goes on outside
        assert newton_schulz(torch.ones(2, 3, device="meta")).shape == (2, 3)  # a device without autocast
    assert all(torch.equal(a, b) and b.dtype is torch.float32 for a, b in zip(outside, inside, strict=True))
