"""Passes as compiled loops over elements: the same numbers as eager ones, whatever the tensors, and refused where that can't be."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from thalweg.optim import SGD, AdamP, AdamW, Chained, ChainedOptimizer, Lamb, Lars, Lion, Muon, elementwise, layerwise
from thalweg.optim.engine import building, compiling, loops
from thalweg.optim.engine.loops import Loop
from thalweg.optim.engine.staging import Array, NoLoopError, Staging

pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and compiling.can_compile("cpu")),
    reason="loops are built on Linux, with a C++ compiler (g++)",
)

SIZES = ((5, 7), (1000, 41), (3,), (), (0, 4), (2, 3, 5, 5))


@pytest.fixture(autouse=True)
def only_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What isn't a loop after all fails."""
    monkeypatch.setattr(compiling.Compiler, "_run_fused", None)


@pytest.fixture
def anything(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What isn't a loop runs eagerly; how many calls did."""
    counted: list[int] = []

    def run(self: object, calls: list) -> list:
        counted.append(len(calls))
        return [call.run() for call in calls]

    monkeypatch.setattr(compiling.Compiler, "_run_fused", run)
    return counted


def ends(
    make: Callable[..., ChainedOptimizer],
    starts: list[Tensor],
    grads: Callable[[int], list[Tensor]],
    steps: int,
    compiled: bool,
) -> list[Tensor]:
    """Parameters and states after some steps."""
    params = [nn.Parameter(start.clone(memory_format=torch.preserve_format)) for start in starts]
    optimizer = make(params, compile=compiled)
    for step in range(steps):
        for p, g in zip(params, grads(step), strict=True):
            p.grad = g
        optimizer.step()
    states = [t for p in params for t in optimizer.state[p].values() if isinstance(t, Tensor)]
    return [*(p.detach() for p in params), *states]


def pair(
    make: Callable[..., ChainedOptimizer], starts: list[Tensor], grads: Callable[[int], list[Tensor]], steps: int = 3
) -> tuple[list[Tensor], list[Tensor]]:
    """The same, eager and compiled."""
    return ends(make, starts, grads, steps, False), ends(make, starts, grads, steps, True)


def randoms(sizes: tuple, dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64])
@pytest.mark.parametrize("make", [Lion, AdamW, Lamb, Lars], ids=lambda cls: cls.__name__)
def test_all_dtypes_and_shapes(make, dtype) -> None:
    eager, loop = pair(
        lambda params, **options: make(params, lr=0.01, weight_decay=0.1, **options),
        randoms(SIZES, dtype, 0),
        lambda step: randoms(SIZES, dtype, 1 + step),
    )
    # Sums are added up in another order, and where numbers are rounded to 16 bits, that may fall either way.
    tolerance = {torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(dtype, 3e-6)
    for one, other in zip(eager, loop, strict=True):
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance / 10)
    if make is Lion:
        assert all(map(torch.equal, eager, loop))  # sums and products are rounded one by one, as in eager mode


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_states_that_round(state_dtype) -> None:
    """Numbers that are rounded when they are written are summed as they were before."""
    eager, loop = pair(
        lambda params, **options: Lamb(params, lr=0.01, state_dtype=state_dtype, **options),
        randoms(SIZES, torch.bfloat16, 0),
        lambda step: randoms(SIZES, torch.bfloat16, 1 + step),
    )
    for one, other in zip(eager, loop, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-2, atol=1e-7)
        if one.dtype is torch.bfloat16 and one.numel() > 1000:
            assert (one != other).float().mean() < 1e-3


@pytest.mark.parametrize("make", [SGD, Lamb], ids=lambda cls: cls.__name__)
def test_results_do_not_depend_on_who_works_on_what(make, monkeypatch) -> None:
    """Bit for bit: one thread or three, each tensor shared by all of them or not; larger and smaller than what is stored."""
    sizes = ((1100, 1000), (300, 301), (64,), (9, 3))
    before, found = torch.get_num_threads(), []

    def run(compiled: bool) -> list[Tensor]:
        starts = randoms(sizes, torch.float32, 0)
        return ends(
            lambda p, **o: make(p, lr=0.1, **o),
            starts,
            lambda step: randoms(sizes, torch.float32, 1 + step),
            2,
            compiled,
        )

    try:
        for threads, shared in ((1, 0.25), (3, 0.0), (3, 0.25), (3, 1e9)):
            monkeypatch.setattr(loops, "SHARED", shared)
            torch.set_num_threads(threads)
            found.append(run(compiled=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for end in found[1:] for one, other in zip(found[0], end, strict=True))
    for one, other in zip(run(compiled=False), found[0], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_another_shape_is_an_error() -> None:
    """As parameters may be exchanged behind an optimizer's back, and a loop would read beyond the gradient's end."""
    p = nn.Parameter(torch.zeros(4, 3))
    p.grad = torch.ones(4, 3)
    optimizer = Lion([p], compile=True)
    optimizer.step()
    p.data = torch.zeros(8, 3)
    optimizer.state[p]["exp_avg"] = torch.zeros(8, 3)
    with pytest.raises(RuntimeError, match="must match"):
        optimizer.step()
    assert not p.any()


def test_parameters_and_gradients_that_lie_in_memory_in_other_ways() -> None:
    starts = randoms(((4, 3, 5, 5), (6, 7), (8, 9)), torch.float32, 0)
    starts = [starts[0].contiguous(memory_format=torch.channels_last), starts[1].t(), starts[2]]

    def grads(step: int) -> list[Tensor]:
        first, second, third = randoms(tuple(s.shape for s in starts), torch.float32, 1 + step)
        return [first, second, third.t().contiguous().t()]

    for make in (Lion, Lamb):
        for one, other in zip(*pair(lambda p, m=make, **o: m(p, lr=0.1, **o), starts, grads), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
            assert one.stride() == other.stride()


def test_nothing_beside_a_parameter_is_touched() -> None:
    whole = torch.zeros(10_000)
    p = nn.Parameter(whole[100:6337])
    p.grad = torch.ones(6237)
    Lion([p], lr=1.0, compile=True).step()
    assert not whole[:100].any() and not whole[6337:].any() and whole[100:6337].all()


def test_parameters_with_gaps_between_their_numbers(anything) -> None:
    whole = torch.zeros(6, 8)
    p = nn.Parameter(whole[:, ::2])
    p.grad = torch.ones(6, 4)
    Lion([p], lr=1.0, compile=True).step()
    assert anything and p.eq(-1).all() and not whole[:, 1::2].any()


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "abs": lambda u, x: u.abs(),
    "add": lambda u, x: torch.add(u, x, alpha=0.3) + 2,
    "sub": lambda u, x: torch.sub(u, x, alpha=0.3) - 2,
    "rsub": lambda u, x: torch.rsub(u, x, alpha=0.3) + (1 - u),
    "mul, div": lambda u, x: u * x / (x.abs() + 1e-3) / 3.0,
    "maximum": lambda u, x: torch.maximum(u, x),
    "minimum": lambda u, x: torch.minimum(u, x),
    "clamp": lambda u, x: u.clamp(-0.5, 0.25) + x.clamp(min=0.1) + x.clamp(max=0.1) + u.clamp(min=x),
    "clamp_min": lambda u, x: u.clamp_min(0.1) + u.clamp_max(0.2),
    "sign": lambda u, x: u.sign(),
    "sqrt": lambda u, x: u.abs().sqrt() + (x.abs() + 1).rsqrt(),
    "powers": lambda u, x: u**2 + u**3 + (x.abs() + 1) ** 0.5 + (x.abs() + 1) ** -0.5 + (x.abs() + 1) ** -1.0,
    "pow": lambda u, x: (u.abs() + 0.1) ** 1.7 + 2.0**x.clamp(-9, 9),
    "exp": lambda u, x: u.exp() + (-x.abs()).exp(),
    "log": lambda u, x: u.abs().log(),
    "waves": lambda u, x: u.sin() + x.cos(),
    "tanh": lambda u, x: u.tanh() + x.sigmoid(),
    "relu": lambda u, x: u.relu() + u.reciprocal() + u.square() + u.neg(),
    "where": lambda u, x: torch.where(u > x, u, x) + torch.where(u <= 0.1, 1.0, x),
    "logic": lambda u, x: ((u >= x) & (u < 1) | ~(u == x)).to(u.dtype),
    "lerp": lambda u, x: torch.lerp(u, x, 0.2) + torch.lerp(u, x, 0.8),
    "addcmul": lambda u, x: torch.addcmul(u, u, x, value=0.3) + torch.addcdiv(u, x, x.abs() + 1, value=0.7),
    "constants": lambda u, x: u * torch.full_like(x, 0.3) + torch.zeros_like(x) - torch.ones_like(u),
    "changed in place": lambda u, x: u.clone().mul_(2).add_(x),
    "to float64 and back": lambda u, x: (u.double() / 3).to(u.dtype) + x,
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name) -> None:
    function = OPERATORS[name]

    @elementwise()
    def change(update, param, state):
        return function(update, param)

    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, -1e30, torch.inf, -torch.inf, torch.nan])
    update, param = (t.reshape(-1) for t in torch.meshgrid(special, special, indexing="ij"))
    update, param = (
        torch.cat([t, r]) for t, r in zip((update, param), randoms(((200,), (200,)), torch.float32, 0), strict=True)
    )
    eager, loop = pair(lambda p, **o: Chained(p, change(), lr=1.0, **o), [param], lambda step: [update], steps=1)
    torch.testing.assert_close(loop[0], eager[0], rtol=2e-6, atol=1e-6, equal_nan=True)


def test_sums_of_sums() -> None:
    """Three loops; the numbers that the third needs are those of the second."""

    def sums(update: Tensor, param: Tensor) -> tuple[Tensor, ...]:
        return (update.square().sum(), torch.full_like(update.sum(), update.numel()))

    def more(update: Tensor, param: Tensor, known: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((update.abs() - known[0].sqrt() / known[1]).square().sum(),)

    @layerwise(sums=(sums, more), state=("seen",))
    def scaled(update, param, state, known):
        state["seen"] = state["seen"] + update / known[0].sqrt()
        return state["seen"] / (known[2] / known[1]).sqrt()

    eager, loop = pair(
        lambda p, **o: Chained(p, scaled(), lr=0.1, **o), randoms(((40, 50), (7,)), torch.float32, 0),
        lambda step: randoms(((40, 50), (7,)), torch.float32, 1 + step),
    )  # fmt: skip
    for one, other in zip(eager, loop, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def staged(function: Callable[..., tuple[Tensor, ...]], arrays: list[int | None]) -> Staging:
    """The loops of a function of (gradient, state, parameter); ``arrays`` are the results that are written to these."""
    graph = make_fx(function)(*randoms(((4, 3),) * 3, torch.float32, 0)).graph
    names = [node.name for node in graph.nodes if node.op == "placeholder"]
    return Staging(graph, [Array(n, torch.float32, r) for n, r in zip(names, arrays, strict=True)])


def test_a_state_is_written_in_the_first_loop_and_read_from_there() -> None:
    def step(g: Tensor, m: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        new = m * 0.9 + g
        return new, p - new * (new.square().sum().sqrt() / p.square().sum().sqrt())

    found = staged(step, [None, 0, 1])
    assert found.count == 2 and found.written == {1: 0, 2: 1} and not found.stored
    assert set(found.kept(1).values()) == {1} and found.nodes[0] not in found.needed(1, stored=False)


def test_not_before_old_numbers_were_read() -> None:
    def step(g: Tensor, m: Tensor, p: Tensor) -> tuple[Tensor, ...]:
        new = m * 0.9 + g
        return new, p - (new - m) * new.square().sum()

    found = staged(step, [None, 0, 1])
    assert found.written == {1: 1, 2: 1} and not found.kept(1)
    assert found.nodes[1] in found.needed(1, stored=True)


def test_what_is_dear_is_stored_and_what_is_cheap_is_not() -> None:
    for function, dear in ((torch.exp, True), (torch.neg, False)):

        def step(function: Callable[[Tensor], Tensor], g: Tensor, m: Tensor, p: Tensor) -> tuple[Tensor, ...]:
            u = function(g)
            return (p - u * u.sum(),)

        assert bool(staged(functools.partial(step, function), [None, None, 0]).stored) is dear


@pytest.mark.parametrize(
    "change",
    [
        lambda u, x: u / u.shape[0],
        lambda u, x: u if u.ndim == 1 else -u,
        lambda u, x: u.flip(0),
        lambda u, x: u.cumsum(0),
        lambda u, x: u - u.mean(),
        lambda u, x: torch.erfinv(u.clamp(-0.5, 0.5)),
        lambda u, x: u * torch.arange(u.numel()).view(u.shape),
        lambda u, x: u.view(2, -1).view(u.shape),
        lambda u, x: u if u.numel() % 2 else -u,
    ],
)
def test_what_is_no_loop_is_left_to_others(change, anything) -> None:
    @elementwise()
    def transform(update, param, state):
        return change(update, param)

    eager, other = pair(
        lambda p, **o: Chained(p, transform(), lr=0.1, **o), randoms(((4, 6), (8,)), torch.float32, 0),
        lambda step: randoms(((4, 6), (8,)), torch.float32, 1 + step),
    )  # fmt: skip
    assert anything and all(map(torch.equal, eager, other))


def test_rules_that_look_at_rows_are_left_to_others(anything, train) -> None:
    params = [nn.Parameter(torch.randn(4, 5))]
    train(AdamP(params, compile=True), params, 0, 1)
    assert anything == [1]


def test_two_groups_and_a_matrix_rule(train) -> None:
    starts = randoms(((8, 12), (12, 8), (12,)), torch.float32, 0)
    ends = []
    for compile_ in (False, True):
        model = nn.ParameterDict({str(i): nn.Parameter(start.clone()) for i, start in enumerate(starts)})
        train(Muon(model, lr=0.1, weight_decay=0.1, compile=compile_), list(model.values()), 0, 3)
        ends.append(list(model.values()))
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_one_loop_serves_all_shapes(train, monkeypatch) -> None:
    def of(*sizes: tuple[int, ...]) -> None:
        params = [nn.Parameter(torch.ones(size)) for size in sizes]
        train(Lion(params, compile=True), params, 0, 1)

    of((3, 4), (5,))
    monkeypatch.setattr(loops, "built", None)
    for number in range(100):
        of((number + 1, 7), (number,))


def test_inference_mode_and_other_default_devices(train) -> None:
    for context in (torch.inference_mode(), torch.device("meta")):
        loops._loop.cache_clear()
        p, q = (nn.Parameter(torch.ones(5, device="cpu")) for _ in range(2))
        p.grad, q.grad = (torch.arange(5.0, device="cpu") for _ in range(2))
        with context:
            AdamW([p], lr=0.1, compile=True).step()
        AdamW([q], lr=0.1, compile=False).step()
        torch.testing.assert_close(p, q)


def test_what_was_built_is_found_again(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = 'extern "C" int three() { return 3; }'
    assert building.built(source).three() == 3
    (library,) = (tmp_path / "thalweg" / "loops").iterdir()
    assert library.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(building, "_run", None)
    assert building.built(source).three() == 3


def test_another_compiler_and_other_words_build_anew(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number in (4, 5):
        assert building.built(f'extern "C" int number() {{ return {number}; }}').number() == number


def test_a_folder_that_others_may_not_be_trusted_with(monkeypatch, tmp_path) -> None:
    """Where the cache can't be written, or others can write there, too, what is built stays with this process."""
    blocked, open_to_all = tmp_path / "file", tmp_path / "thalweg" / "loops"
    blocked.write_text("")
    open_to_all.mkdir(parents=True)
    open_to_all.chmod(0o777)
    for number, root in enumerate((blocked, tmp_path)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(root))
        assert building.built(f'extern "C" int number() {{ return {number}; }}').number() == number
        assert str(building._folder()) == building._folder_of_this_process().name
    assert not list(open_to_all.iterdir())


def test_a_compiler_that_fails(monkeypatch, tmp_path, anything, train) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(OSError, match="error"):
        building.built("this is no program")
    assert not list((tmp_path / "thalweg" / "loops").iterdir())

    def fails(source: str) -> None:
        raise OSError("no space left\nmore")

    monkeypatch.setattr(loops, "built", fails)
    loops._loop.cache_clear()
    params = [nn.Parameter(torch.ones(3))]
    with pytest.warns(
        UserWarning, match=r"^a loop can't be built, so Inductor compiles the step \(slower\): no space left$"
    ):
        train(Lion(params, compile=True), params, 0, 2)
    assert anything == [1, 1]
    loops._loop.cache_clear()


def test_a_pass_that_depends_on_shapes_says_so() -> None:
    @elementwise()
    def shaped(update, param, state):
        return update * update.shape[-1]

    params = [nn.Parameter(torch.ones(3))]
    seen: list[object] = []
    optimizer = Chained(params, shaped(), lr=0.1)
    optimizer._compiler.run = lambda calls: seen.extend(calls) or [call.run() for call in calls]  # type: ignore[method-assign]
    params[0].grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(NoLoopError, match="depends on the shape"):
        Loop(seen[0].one_pass, (torch.float32,) * 2, (), 2)  # type: ignore[attr-defined]


def test_processes_build_the_same_loop_at_once(tmp_path) -> None:
    program = "from thalweg.optim.engine.building import built\nprint(built('extern \"C\" int seven() { return 7; }').seven())"
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    running = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    assert [process.communicate()[0].strip() for process in running] == ["7"] * 3
    assert len(list(Path(tmp_path, "thalweg", "loops").iterdir())) == 1
