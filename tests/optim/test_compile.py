"""Compiled passes: equal to eager ones, compiled once, and only where that pays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import (
    AdamW,
    Chained,
    Lamb,
    Lion,
    adam_direction,
    add_decayed_weights,
    gradient_noise,
    lion_direction,
    trust_ratio,
)
from thalweg.optim import momentum as momentum_of
from thalweg.optim.engine import compiling, joining, loops

SHAPES = ((5, 7), (3,), ())

pytestmark = pytest.mark.skipif(not compiling.can_compile("cpu"), reason="torch.compile needs a C++ compiler (g++)")


def make_params(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in SHAPES]


@pytest.fixture
def inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is compiled goes to Inductor, as on other devices."""
    monkeypatch.setattr(compiling, "loop_of", lambda call: None)


# What draws random numbers isn't a loop over elements and goes to Inductor: many seconds, so one chain covers several transforms.
CHAINS = {
    "lion": (lambda: lion_direction(), {"weight_decay": 0.1}),
    "noisy lamb": (
        lambda: gradient_noise(eta=1e-3) >> adam_direction() >> add_decayed_weights(weight_decay=0.1)
        >> trust_ratio(clamp_norm=(0.1, 10.0)),
        {},
    ),
    "nesterov, decay after": (lambda: momentum_of(nesterov=True), {"weight_decay": 0.1, "decay": "after", "maximize": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_compiled_equals_eager_and_nothing_recompiles(name: str, train, monkeypatch) -> None:
    """100 steps under a schedule that moves every number a schedule may move."""
    chain, options = CHAINS[name]
    eager, fused = make_params(), make_params()
    one = Chained(eager, chain(), lr=0.01, compile=False, **options)
    two = Chained(fused, chain(), lr=0.01, compile=True, **options)
    train(two, fused, 0, 1)  # compiles
    train(one, eager, 0, 1)
    monkeypatch.setattr(compiling.Fused, "_compiled", None)  # compiling again would raise
    monkeypatch.setattr(loops, "_source", None)
    for step in range(1, 100):
        for optimizer in (one, two):
            group = optimizer.param_groups[0]
            group["lr"] = 0.01 / (1 + step)
            for key, values in (
                ("weight_decay", (0.1 + 0.001 * step)),
                ("betas", (0.9 - 0.001 * step, 0.99)),
                ("momentum", 0.9 - 0.001 * step),
                ("clamp_norm", (0.1 + 0.001 * step, 10.0)),
                ("noise_eta", 1e-3 / step),
                ("eps", 1e-8 * step),
            ):
                if key in group and (key != "weight_decay" or group[key]):
                    group[key] = values
        train(one, eager, step, step + 1)
        train(two, fused, step, step + 1)
    assert len(two._compiler._functions) == (name == "noisy lamb")
    for p, q in zip(eager, fused, strict=True):
        torch.testing.assert_close(p.data, q.data, rtol=1e-6 if name != "noisy lamb" else 2e-6, atol=1e-7)
        for key, value in one.state[p].items():
            torch.testing.assert_close(two.state[q][key], value, rtol=2e-6, atol=1e-7)


def test_compiled_bfloat16_with_random_rounding_equals_eager(train) -> None:
    eager, fused = make_params(torch.bfloat16), make_params(torch.bfloat16)
    for compile_, params in ((False, eager), (True, fused)):
        optimizer = Chained(params, momentum_of(), lr=0.01, compile=compile_, stochastic_rounding=True)
        train(optimizer, params, 0, 5)
    for p, q in zip(eager, fused, strict=True):
        assert torch.equal(p, q)  # momentum is the same to the bit, and so are the random bits


@pytest.mark.parametrize("cls", [AdamW, Lamb])
def test_many_small_tensors_together(cls, inductor, monkeypatch, train) -> None:
    """End to end for a rule that sees each number alone, on top of each other for one that sums; large ones apart."""
    monkeypatch.setattr(joining, "COMPILED_FROM", 6)
    starts = [torch.randn(s, generator=torch.Generator().manual_seed(1)) for s in [(200, 200), *[(3,), (2, 4)] * 4]]
    eager, fused = ([nn.Parameter(s.clone()) for s in starts] for _ in range(2))
    for compile_, params in ((False, eager), (True, fused)):
        train(cls(params, lr=0.1, weight_decay=0.1, compile=compile_), params, 0, 4)
    for p, q in zip(eager, fused, strict=True):
        torch.testing.assert_close(p.data, q.data, rtol=1e-6, atol=1e-6)


@pytest.fixture
def counted(inductor: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Signatures that would have been compiled; nothing is, so the test is quick."""
    asked: list[tuple] = []

    def pretend(signature: tuple):
        asked.append(signature)
        return lambda calls: [call.run() for call in calls]

    monkeypatch.setattr(compiling, "_shared", pretend)
    return asked


def test_small_models_stay_eager(counted, train) -> None:
    params = make_params()
    train(Lion(params), params, 0, 2)
    assert counted == []


def test_the_threshold_counts_the_whole_optimizer(counted, train, monkeypatch) -> None:
    total = sum(p.numel() for p in make_params())
    monkeypatch.setattr(compiling, "SMALL_PASS", 1)
    for limit, compiled in ((total, 1), (total + 1, 0)):  # both groups in one function
        counted.clear()
        monkeypatch.setattr(compiling, "COMPILE_FROM", limit)
        params = make_params()
        train(Lion([{"params": params[:1]}, {"params": params[1:]}]), params, 0, 2)
        assert len(counted) == compiled


def test_small_passes_of_large_optimizers_stay_eager(counted, train, monkeypatch) -> None:
    monkeypatch.setattr(compiling, "COMPILE_FROM", 1)
    monkeypatch.setattr(compiling, "SMALL_PASS", 35)
    params = make_params()
    train(Lion([{"params": params[:1]}, {"params": params[1:]}]), params, 0, 2)
    assert len(counted) == 1
    (call,) = counted[0][2:]
    assert params[0].shape in call[2][2]


def test_without_a_compiler_large_models_stay_eager(counted, train, monkeypatch) -> None:
    monkeypatch.setattr(compiling, "COMPILE_FROM", 1)
    monkeypatch.setattr(compiling, "SMALL_PASS", 1)
    monkeypatch.setattr(compiling, "can_compile", lambda device: False)
    params = make_params()
    train(Lion(params), params, 0, 1)
    assert counted == []


def test_missing_compiler_is_said_once(monkeypatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    compiling.can_compile.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"^no C\+\+ compiler found: optimizer steps run uncompiled"):
            assert not compiling.can_compile("cpu")
    finally:
        compiling.can_compile.cache_clear()
    assert not compiling.can_compile("mps")


def test_false_never_compiles(counted, train, monkeypatch) -> None:
    monkeypatch.setattr(compiling, "COMPILE_FROM", 1)
    monkeypatch.setattr(compiling, "SMALL_PASS", 1)
    params = make_params()
    train(Lion(params, compile=False), params, 0, 1)
    assert counted == []


def test_changing_sets_of_gradients_run_eagerly_at_last(counted, monkeypatch) -> None:
    """Experts that are used now and then make new lists of tensors; their number is bounded."""
    monkeypatch.setattr(compiling, "MAX_FUNCTIONS", 4)
    params = [nn.Parameter(torch.ones(i + 1)) for i in range(8)]
    twins = [nn.Parameter(torch.ones(i + 1)) for i in range(8)]
    optimizer, twin = Lion(params, compile=True), Lion(twins, compile=False)
    for _ in range(2):
        for used in range(8):
            for pair in ((params, optimizer), (twins, twin)):
                for i, p in enumerate(pair[0]):
                    p.grad = torch.ones_like(p) if i == used else None
                pair[1].step()
    assert len(counted) == 4
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_what_makes_another_function(counted, train) -> None:
    """Layouts, dtypes and rules do; numbers and step counts don't; whole numbers count as numbers."""
    params = make_params()
    optimizer = AdamW(params, compile=True)
    train(optimizer, params, 0, 3)
    optimizer.param_groups[0].update(lr=1, weight_decay=1, betas=(0, 0), eps=1)
    train(optimizer, params, 3, 6)
    assert len(counted) == 1
    optimizer.param_groups[0]["weight_decay"] = 0.0  # a pass without decay
    train(optimizer, params, 6, 8)
    optimizer.param_groups[0]["maximize"] = True
    train(optimizer, params, 8, 10)
    assert len(set(counted)) == len(counted) == 3
    halves = make_params(torch.bfloat16)
    train(AdamW(halves, compile=True), halves, 0, 2)
    assert len(set(counted)) == 4


def test_random_numbers_in_long_loops(train) -> None:
    """Sizes at which the compiled loop is vectorized, with a rest; neighbours in memory would show a loop that runs too far."""
    whole = torch.zeros(1000)
    p = nn.Parameter(whole[100:637])
    twin = nn.Parameter(torch.zeros(537))
    for param, compile_ in ((p, True), (twin, False)):
        optimizer = Chained([param], gradient_noise(eta=1.0) >> momentum_of(), lr=1.0, compile=compile_)
        param.grad = torch.zeros(537)
        optimizer.step()
    torch.testing.assert_close(p.data, twin.data, rtol=1e-6, atol=1e-6)
    assert not whole[:100].any() and not whole[637:].any()


def test_a_second_optimizer_shares_what_the_first_compiled(inductor, monkeypatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: compiled.append(graph) or graph)
    for _ in range(3):
        p = nn.Parameter(torch.ones(11, 13))  # a shape that no other test uses
        p.grad = torch.ones_like(p)
        Lion([p], compile=True).step()
    assert len(compiled) == 1
    compiling._shared.cache_clear()


def test_parameters_cut_from_one_vector_share_a_function_with_others(inductor, train) -> None:
    vector = torch.randn(12, generator=torch.Generator().manual_seed(3))
    lists = [[nn.Parameter(vector[:6]), nn.Parameter(vector[6:])]]  # compiled when these are met
    lists += [[nn.Parameter(p.detach().clone()) for p in lists[0]] for _ in range(2)]
    for params, compile_ in zip(lists, (True, True, False), strict=True):
        train(Lamb(params, lr=0.1, compile=compile_), params, 0, 3)
    for shared, apart, eager in zip(*lists, strict=True):
        assert torch.equal(shared, apart)
        torch.testing.assert_close(shared, eager, rtol=1e-6, atol=1e-6)


def test_parameters_know_that_they_were_changed() -> None:
    """So that a backward pass through old values is refused, as after any change in place."""
    p = nn.Parameter(torch.ones(3))
    loss = p.square().sum()
    p.grad = torch.ones_like(p)
    Lion([p], compile=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inside_a_compiled_function_of_the_users() -> None:
    ends = []
    for wrap in (torch.compile, lambda function: function):
        params = make_params()
        optimizer = Lion(params, lr=0.1, compile=True)
        step = wrap(lambda optimizer=optimizer: optimizer.step())
        for _ in range(3):
            for p in params:
                p.grad = p.detach().sin()
            step()
        ends.append(params)
    assert all(map(torch.equal, *ends))


def test_what_inductor_compiled_is_kept_on_disk(inductor) -> None:
    """A function made anew, as another process makes it, is found again."""
    from torch._dynamo.utils import counters

    for _ in range(2):
        compiling._shared.cache_clear()
        counters.clear()
        p = nn.Parameter(torch.ones(13, 11))
        p.grad = torch.ones_like(p)
        Lamb([p], compile=True).step()
    assert counters["inductor"]["fxgraph_cache_hit"] == 1 and not counters["inductor"]["fxgraph_cache_miss"]
