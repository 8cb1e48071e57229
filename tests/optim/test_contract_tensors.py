"""What every rule does with unusual tensors: layouts, dtypes, empty, complex, shared, frozen, without gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from thalweg.optim import SGD, AdamW, Chained, Lamb, Lion, Muon, gradient_noise, momentum, orthogonalize


def is_floating_point(value: object) -> bool:
    return torch.is_tensor(value) and value.is_floating_point()


def test_without_gradient_nothing_happens(rule) -> None:
    params = rule.parameters()
    optimizer = rule(params)
    start = params[0].detach().clone()
    for _ in range(2):
        for p in params[1:]:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert torch.equal(params[0].data, start) and params[0] not in optimizer.state
    assert all(p in optimizer.state for p in params[1:])


def test_empty_parameters(few, train) -> None:
    shapes = [(0, 3), (3, 0), (0, 0)] if few.matrices_only else [(0, 3), (3, 0), (0,), (2, 0, 3)]
    params = [*few.parameters(), *(nn.Parameter(torch.empty(s)) for s in shapes)]
    optimizer = few(params)
    before = params[0].detach().clone()
    train(optimizer, params, 0, 3)
    assert not torch.equal(params[0].data, before)
    assert [tuple(p.shape) for p in params[-len(shapes) :]] == shapes


def test_scalars_move_like_vectors_of_one(few, train) -> None:
    if few.matrices_only:
        pytest.skip("a matrix few takes no scalars")
    scalar, vector = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor([1.5]))
    train(few([scalar]), [scalar], 0, 4)
    optimizer = few([vector])
    for step in range(4):
        generator = torch.Generator().manual_seed(1000 * step)
        vector.grad = torch.randn((), generator=generator, dtype=torch.float64).float().view(1)
        optimizer.step()
    assert scalar.shape == () and scalar.item() == vector.item() != 1.5


def test_non_contiguous_parameters(rule, train) -> None:
    generator = torch.Generator().manual_seed(0)
    wide, tall = torch.randn(6, 8, generator=generator), torch.randn(3, 4, generator=generator)
    views = [nn.Parameter(wide[::2, ::2]), nn.Parameter(tall.t())]
    dense = [nn.Parameter(v.detach().contiguous()) for v in views]
    strides = [v.stride() for v in views]
    untouched = wide[1::2, 1:4:2].clone()
    train(rule(views), views, 0, 3)
    train(rule(dense), dense, 0, 3)
    assert [v.stride() for v in views] == strides and not views[0].is_contiguous()
    for v, d in zip(views, dense, strict=True):
        torch.testing.assert_close(v.data, d.data, rtol=1e-5, atol=1e-6)
    assert torch.equal(wide[1::2, 1:4:2], untouched)


def test_channels_last(rule, train) -> None:
    plain = nn.Parameter(torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(0)))
    last = nn.Parameter(plain.detach().to(memory_format=torch.channels_last, copy=True))
    optimizer = rule([last])
    train(optimizer, [last], 0, 3)
    train(rule([plain]), [plain], 0, 3)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last.data, plain.data, rtol=1e-5, atol=1e-6)
    states = [v for v in optimizer.state[last].values() if torch.is_tensor(v) and v.shape == last.shape]
    assert all(v.is_contiguous(memory_format=torch.channels_last) for v in states)


def test_tied_parameters_move_once(rule, same) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    torch.manual_seed(0)
    model = Tied()
    twin = nn.Parameter(model.a.weight.detach().clone())
    optimizer = rule(model)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 1
    model.a.weight.grad = twin.grad = torch.ones(3, 3).tril()
    group = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("params", "param_names")}
    optimizer.step()
    rule([{**group, "params": [twin]}]).step()
    assert same([model.a.weight], [twin])


@pytest.mark.parametrize("cls", [AdamW, SGD, Lion])
def test_complex_parameters_equal_pairs_of_reals(cls) -> None:
    start = torch.randn(3, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    number, pair = nn.Parameter(start.clone()), nn.Parameter(torch.view_as_real(start).clone())
    scalar = nn.Parameter(torch.tensor(1 + 2j))
    one, two, three = (cls([p], lr=0.01, weight_decay=0.1) for p in (number, pair, scalar))
    for _ in range(5):
        for p, optimizer in ((number, one), (pair, two), (scalar, three)):
            optimizer.zero_grad()
            modulus = p.abs() if p.is_complex() else p.norm(dim=-1)
            (modulus**4).sum().backward()
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(number.data), pair.data, rtol=1e-12, atol=1e-14)
    assert scalar.dtype is torch.complex64 and abs(scalar.item()) < abs(1 + 2j)
    assert all(v.dtype is torch.complex128 for v in one.state[number].values() if torch.is_tensor(v))


def test_complex_parameters_with_conjugated_gradients_noise_and_trust() -> None:
    for make in (lambda p: Lamb(p, lr=0.1), lambda p: Chained(p, gradient_noise(eta=0.1) >> momentum(), lr=0.1)):
        z = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
        z.grad = torch.full((2, 2), 1 + 1j).conj()
        make([z]).step()
        assert z.isfinite().all() and (z != 1).all()


def test_matrix_rules_refuse_complex_and_small_parameters() -> None:
    z = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"^a matrix rule can't take the complex parameter of shape \(2, 2\)$"):
        Muon([z])
    vector = nn.Parameter(torch.ones(5))
    message = r"^a matrix rule needs parameters of two dimensions or more, not shape \(5,\)$"
    with pytest.raises(ValueError, match=message):
        Muon([{"params": [vector]}])
    with pytest.raises(ValueError, match=message):
        Chained([vector], momentum() >> orthogonalize())


def test_quantized_weights_are_passed_over(rule, train, same) -> None:
    """Frozen whole numbers beside trained adapters, also where a rule for matrices finds them; torch lets none require grad."""
    params, twins = rule.parameters(), rule.parameters()
    frozen = [
        nn.Parameter(torch.arange(6, dtype=d).view(3, 2), requires_grad=False) for d in (torch.uint8, torch.int64)
    ]
    optimizer = rule([*params, *frozen])
    train(optimizer, params, 0, 2)
    train(rule(twins), twins, 0, 2)
    assert same(*([p for p in own if p.ndim >= 2] for own in (params, twins)))  # vectors of noise have moved on
    assert all(torch.equal(p, torch.arange(6).view(3, 2)) and p not in optimizer.state for p in frozen)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def test_a_gradient_of_whole_numbers_is_refused_before_anything_changes(few, same) -> None:
    params = few.parameters()
    frozen = nn.Parameter(torch.ones(8, 4, dtype=torch.uint8), requires_grad=False)
    optimizer = few([*params, frozen])
    before = copy.deepcopy(params)
    for p in (*params, frozen):
        p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        "can't optimize a parameter of dtype torch.uint8 (shape (8, 4)): "
        "clear its gradient, or give it a floating-point dtype"
    )
    assert same(params, before) and not optimizer.state
    frozen.grad = None
    optimizer.step()
    assert not same(params[:1], before[:1])


def test_float64_and_bfloat16_follow_float32(rule, train) -> None:
    paths = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        params = rule.parameters(torch.bfloat16)
        params = [nn.Parameter(p.detach().to(dtype)) for p in params]
        optimizer = rule(params)
        train(optimizer, params, 0, 5)
        assert all(p.dtype is dtype for p in params)
        kept = torch.float64 if dtype is torch.float64 else torch.float32
        states = [v for s in optimizer.state.values() for v in s.values() if is_floating_point(v)]
        assert bool(states) == bool(rule.state_tensors) and all(v.dtype is kept for v in states)
        paths[dtype] = torch.cat([p.detach().double().flatten() for p in params])
    torch.testing.assert_close(paths[torch.float32], paths[torch.float64], rtol=0.02, atol=5e-3)
    torch.testing.assert_close(paths[torch.bfloat16], paths[torch.float64], rtol=0.05, atol=0.05)


def test_state_dtype(rule, train) -> None:
    params = rule.parameters(torch.float32)
    optimizer = rule(params, state_dtype=torch.bfloat16)
    train(optimizer, params, 0, 2)
    states = [v for s in optimizer.state.values() for v in s.values() if is_floating_point(v)]
    assert bool(states) == bool(rule.state_tensors) and all(v.dtype is torch.bfloat16 for v in states)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    cls=st.sampled_from([AdamW, SGD, Lion]),
    order=st.randoms(use_true_random=False),
)
def test_elementwise_rules_see_each_number_alone(shape, dtype, cls, order) -> None:
    """The same numbers in any shape and any order of dimensions move the same."""
    generator = torch.Generator().manual_seed(1)
    start, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    dims = list(range(len(shape)))
    order.shuffle(dims)
    shaped, flat = nn.Parameter(start.permute(dims)), nn.Parameter(start.flatten())
    one, two = (cls([p], lr=0.1, weight_decay=0.1) for p in (shaped, flat))
    for _ in range(2):
        shaped.grad, flat.grad = grad.permute(dims), grad.flatten()
        one.step()
        two.step()
    assert shaped.dtype is dtype and list(shaped.shape) == [shape[d] for d in dims]
    back = sorted(dims, key=lambda d: dims[d])
    # Vectorized and scalar loops may round the last bit differently, so the comparison allows one.
    torch.testing.assert_close(shaped.data.permute(back).flatten(), flat.data)


def test_autocast_reaches_the_closure_but_not_the_rule(rule, same) -> None:
    x, ends = torch.ones(2, 2), []
    for dtype in (torch.float32, torch.bfloat16):
        params = rule.parameters()
        optimizer, generator = rule(params), torch.Generator().manual_seed(0)

        def closure(params=params, generator=generator, dtype=dtype) -> float:
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            assert (x @ x).dtype is dtype
            return 0.0

        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            for _ in range(3):
                optimizer.step(closure)
            assert (x @ x).dtype is dtype  # and it goes on afterwards
        ends.append(params)
    assert same(*ends)
