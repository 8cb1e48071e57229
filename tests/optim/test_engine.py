"""Transforms and chains: declaration, joining, names, what the engine makes of them."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from thalweg.optim import (
    AdamW,
    Chain,
    Chained,
    ChainedOptimizer,
    Lamb,
    Lion,
    adam_direction,
    add_decayed_weights,
    elementwise,
    gradient_noise,
    layerwise,
    lion_direction,
    matrix,
    momentum,
    orthogonalize,
    trust_ratio,
)
from thalweg.optim.engine import matrices
from thalweg.optim.engine.matrices import View, map_stacks
from thalweg.optim.engine.passes import Pass, bind, split

calls: list[tuple[int, ...]] = []


@elementwise()
def scaled(update: Tensor, param: Tensor, state: dict[str, Tensor], *, factor: float = 2.0) -> Tensor:
    return factor * update


@elementwise(state=("exp_avg",))
def averaged(update: Tensor, param: Tensor, state: dict[str, Tensor], *, rate: float = 0.5) -> Tensor:
    state["exp_avg"] = state["exp_avg"] + rate * (update - state["exp_avg"])
    return state["exp_avg"]


@elementwise(prepare=lambda step, start, **_: {"now": start * step})
def growing(update: Tensor, param: Tensor, state: dict[str, Tensor], *, now: float, start: float = 1.0) -> Tensor:
    return now * update


@elementwise()
def by_rate(update: Tensor, param: Tensor, state: dict[str, Tensor], *, lr: float) -> Tensor:
    return update / lr


@layerwise(sums=lambda update, param: ((update * update).sum(),))
def unit(update: Tensor, param: Tensor, state: dict[str, Tensor], sums: tuple[Tensor]) -> Tensor:
    return update / sums[0].sqrt()


def over_norm(update: Tensor, param: Tensor, totals: tuple[Tensor, ...], *, gain: float) -> tuple[Tensor]:
    return (gain * (update.abs() / totals[1].sqrt()).sum(),)


@layerwise(sums=(lambda update, param: (update.sum(), update.square().sum()), over_norm))
def in_two_stages(
    update: Tensor, param: Tensor, state: dict[str, Tensor], sums: tuple[Tensor, ...], *, gain: float = 100.0
) -> Tensor:
    """Adds the sum, and the sum of absolute values over the norm, which needs the norm first."""
    return update + sums[0] + sums[2]


@matrix()
def recorded(stack: Tensor, *, note: str = "") -> Tensor:
    calls.append(tuple(stack.shape))
    return stack


def stepped(chain, *shapes: tuple[int, ...], steps: int = 1, **settings) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """What a chain makes of gradients of ones: the updates of the last step."""
    params = [nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in shapes or ((2, 2),)]
    optimizer = Chained(params, chain, lr=1.0, **settings)
    before: list[Tensor] = []
    for _ in range(steps):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    return [b - p.detach() for b, p in zip(before, params, strict=True)], optimizer


def test_transforms_apply_from_left_to_right() -> None:
    (update,), _ = stepped(scaled(factor=3.0) >> unit() >> scaled(factor=3.0).rename(factor="second"))
    torch.testing.assert_close(update, torch.full((2, 2), 1.5, dtype=torch.float64))
    (update,), _ = stepped(unit() >> unit() >> scaled())
    torch.testing.assert_close(update, torch.ones(2, 2, dtype=torch.float64))


def test_joining_is_associative_and_comparable() -> None:
    a, b, c = scaled(), unit(), averaged()
    assert (a >> b) >> c == a >> (b >> c) == Chain((a, b, c))
    assert len({a >> b, a >> b, b >> a}) == 2 and scaled(factor=2.0) == scaled() != scaled(factor=3.0)
    assert hash(orthogonalize(ns_coefficients=[[1.0, 2.0, 3.0]])) is not None


def test_public_transforms_survive_pickling() -> None:
    chain = gradient_noise() >> momentum() >> orthogonalize() >> trust_ratio()
    again = pickle.loads(pickle.dumps(chain))
    assert again == chain and again.hypers == chain.hypers and again.state_names == chain.state_names


def test_repr() -> None:
    assert repr(scaled(factor=3.0) >> averaged()) == "scaled(factor=3.0) >> averaged(rate=0.5)"
    assert repr(scaled().rename(factor="gain")) == "scaled(gain=2.0)"
    assert repr(scaled) == "<elementwise transform scaled>"


def test_names_claimed_twice() -> None:
    with pytest.raises(ValueError) as caught:
        scaled(factor=2.0) >> scaled(factor=3.0)
    assert str(caught.value) == (
        "two transforms of the chain claim 'factor' with different values, 2.0 and 3.0: give both the same value, "
        "or rename one, as in scaled(...).rename(factor='...')"
    )
    with pytest.raises(ValueError, match=r"claim 'betas' with different values, \(0.9, 0.999\) and \(0.9, 0.99\)"):
        adam_direction() >> lion_direction()
    shared = scaled() >> unit() >> scaled()  # one hyper-parameter, used twice
    (update,), optimizer = stepped(shared)
    torch.testing.assert_close(update, torch.full((2, 2), 1.0, dtype=torch.float64))
    assert optimizer.param_groups[0]["factor"] == 2.0


def test_renaming() -> None:
    chain = scaled(factor=2.0) >> scaled(factor=3.0).rename(factor="gain")
    (update,), optimizer = stepped(chain)
    assert update[0, 0] == 6.0
    optimizer.param_groups[0]["gain"] = 5.0
    p = optimizer.param_groups[0]["params"][0]
    before = p.detach().clone()
    optimizer.step()
    assert (before - p)[0, 0] == 10.0
    with pytest.raises(ValueError, match=r"^scaled has no hyper-parameter 'rate' to rename$"):
        scaled().rename(rate="r")


@pytest.mark.parametrize("name", ["lr", "params", "param_names", "rule", "maximize", "batched"])
def test_names_of_the_engine_are_taken(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        Chain.of(scaled().rename(factor=name)) >> unit()
    assert str(caught.value) == f"scaled: {name!r} belongs to the engine and can't be a hyper-parameter"


def test_state_names_claimed_twice_get_numbers() -> None:
    chain = averaged() >> scaled() >> averaged() >> averaged()
    assert chain.state_names == (("exp_avg",), (), ("exp_avg_2",), ("exp_avg_3",))
    (update,), optimizer = stepped(chain)
    assert update[0, 0] == 2 * 0.125
    state = next(iter(optimizer.state.values()))
    assert [state[k][0, 0].item() for k in ("exp_avg", "exp_avg_2", "exp_avg_3")] == [0.5, 0.5, 0.25]


def test_lr_and_prepared_values_are_filled_in() -> None:
    (update,), _ = stepped(growing(start=3.0), steps=2)
    assert update[0, 0] == 6.0
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    Chained([p], by_rate(), lr=0.25).step()
    assert p.item() == -1.0


def test_needs_step() -> None:
    for chain, needs in (
        (lion_direction(), False),
        (adam_direction(), True),
        (gradient_noise(), True),
        (momentum(), False),
    ):
        assert Chain.of(chain).needs_step is needs
        _, optimizer = stepped(chain)
        assert all(("step" in state) is needs for state in optimizer.state.values())


def test_declarations_are_checked() -> None:
    with pytest.raises(TypeError, match=r"^lost: keyword-only arguments need a default: gain$"):

        @elementwise()
        def lost(update, param, state, *, gain): ...

    with pytest.raises(TypeError, match=r"^off: keyword-only arguments need a default: lr$"):

        @matrix()
        def off(stack, *, lr): ...


def test_a_chain_needs_transforms() -> None:
    assert repr(Chain.of(scaled())) == "scaled(factor=2.0)"
    with pytest.raises(TypeError, match=r"^scaled must be called: write scaled\(\)$"):
        scaled() >> scaled


@pytest.mark.parametrize(
    ("shape", "batched", "expected"),
    [
        ((3, 4), False, (1, 3, 4)),
        ((3, 4), True, (1, 3, 4)),
        ((16, 3, 5, 5), False, (1, 16, 75)),
        ((8, 64, 32), False, (1, 8, 2048)),
        ((8, 64, 32), True, (8, 64, 32)),
        ((2, 3, 4, 5), True, (6, 4, 5)),
        ((4, 0), False, (1, 4, 0)),
    ],
)
def test_matrix_shape(shape, batched, expected) -> None:
    assert View(batched).shape(shape) == expected


@pytest.mark.parametrize("shape", [(), (5,)])
def test_matrix_shape_needs_two_dimensions(shape) -> None:
    with pytest.raises(ValueError) as caught:
        View().shape(shape)
    assert str(caught.value) == f"a matrix rule needs parameters of two dimensions or more, not shape {shape}"


def test_equal_shapes_are_one_call() -> None:
    calls.clear()
    stepped(recorded(), (4, 6), (6, 4), (4, 6), (4, 2, 3), (4, 3, 2), (0, 3))
    assert sorted(calls) == [(1, 6, 4), (4, 4, 6)]


def test_stacks_are_cut_where_they_grow_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "MAX_STACK", 10)
    sizes = []
    updates = [torch.full((2, 2), float(i)) for i in range(5)]
    done, _ = map_stacks(lambda s, _: (sizes.append(len(s)) or 2 * s, None), updates, [(1, 2, 2)] * 5)
    assert sizes == [2, 2, 1] and [d[0, 0].item() for d in done] == [0, 2, 4, 6, 8]
    assert updates == []  # old and new updates needn't all lie in memory at once
    huge, _ = map_stacks(lambda s, _: (s + 1, None), [torch.zeros(4, 4)], [(1, 4, 4)])
    assert torch.equal(huge[0], torch.ones(4, 4))


def test_stacks_of_experts_are_cut_within_a_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "MAX_STACK", 12)
    sizes = []
    experts = torch.arange(5.0)[:, None, None].expand(5, 2, 2)
    counts = [{"count": torch.zeros(n, 1)} for n in (1, 5, 1, 1)]

    def double(stack: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        sizes.append(len(stack))
        state["count"] = state["count"] + stack[:, 0, :1]
        return 2 * stack, stack[:, :1, :1]

    one = torch.full((2, 2), 7.0)
    done, scales = map_stacks(double, [one, experts, one, one], [(1, 2, 2), (5, 2, 2), (1, 2, 2), (1, 2, 2)], counts)
    assert sizes == [3, 3, 2] and torch.equal(done[1], 2 * experts) and torch.equal(done[3], 2 * one)
    assert scales[1].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] and scales[2].tolist() == [7, 7]
    assert counts[1]["count"].flatten().tolist() == [0, 1, 2, 3, 4] and counts[0]["count"].item() == 7


def test_batched_groups_go_as_stacks() -> None:
    calls.clear()
    experts, dense = nn.Parameter(torch.zeros(3, 4, 6)), nn.Parameter(torch.zeros(4, 6))
    optimizer = Chained([{"params": [experts], "batched": True}, {"params": [dense]}], recorded(), lr=1.0)
    for p in (experts, dense):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert calls == [(3, 4, 6), (1, 4, 6)]


def program(chain, sharded: bool) -> list[str]:
    """How a chain is cut: the way each pass is left, with its transforms, or the matrix transform between them."""
    group = {"lr": 0.1, "weight_decay": 0.0, **Chain.of(chain).hypers}
    bound, _ = bind(Chain.of(chain), group, 1)
    parts = split(bound, Pass((), "gradient", "apply"), sharded)
    return [
        f"{p.enter}:{','.join(t.type.__name__ for t in p.transforms)}:{p.leave}"
        if isinstance(p, Pass)
        else "+".join(t.type.__name__ for t in p)
        for p in parts
    ]


def test_programs() -> None:
    assert program(adam_direction() >> trust_ratio(), False) == ["gradient:adam_direction,trust_ratio:apply"]
    assert program(adam_direction() >> trust_ratio(), True) == [
        "gradient:adam_direction,trust_ratio:sums",
        "sums:trust_ratio:apply",
    ]
    assert program(trust_ratio(adapt=False), True) == ["gradient:trust_ratio:apply"]
    assert program(momentum() >> orthogonalize() >> scaled() >> trust_ratio(), True) == [
        "gradient:momentum:matrix",
        "orthogonalize",
        "update:scaled,trust_ratio:sums",
        "sums:trust_ratio:apply",
    ]
    assert program(momentum() >> orthogonalize() >> recorded() >> scaled(), False) == [
        "gradient:momentum:matrix",
        "orthogonalize+recorded",
        "update:scaled:apply",
    ]
    assert program(scaled() >> in_two_stages() >> unit(), True) == [
        "gradient:scaled,in_two_stages:sums",
        "sums:in_two_stages:sums",
        "sums:in_two_stages,unit:sums",
        "sums:unit:apply",
    ]
    assert program(orthogonalize(), False) == ["gradient::matrix", "orthogonalize", "update::apply"]


class Alone(ChainedOptimizer):
    """The engine with two rules, chosen by the groups."""

    def __init__(self, params, **options) -> None:
        super().__init__(params, {"plain": scaled(), "mean": averaged()}, lr=1.0, **options)


def test_sums_that_need_others_first() -> None:
    (update,), _ = stepped(in_two_stages())
    assert torch.equal(update, torch.full((2, 2), 1 + 4 + 100 * 2.0, dtype=torch.float64))


def test_rules_by_group() -> None:
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = Alone([{"params": [a]}, {"params": [b], "rule": "mean"}])
    for p in (a, b):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert (a.item(), b.item()) == (-2.0, -0.5)
    assert "factor" not in optimizer.param_groups[1] and "rate" not in optimizer.param_groups[0]
    assert "plain: scaled(factor=2.0)" in repr(optimizer) and "mean: averaged(rate=0.5)" in repr(optimizer)


def test_before_stands_before_every_rule() -> None:
    p = nn.Parameter(torch.zeros(1))
    optimizer = Alone([{"params": [p], "rule": "mean"}], before=scaled(factor=4.0).rename(factor="gain"))
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert p.item() == -2.0


@pytest.mark.parametrize("cls", [AdamW, Lion, Lamb])
def test_many_small_tensors_move_as_each_alone(cls, train) -> None:
    """Many small tensors are handled together; strides, shapes and dtypes must not matter."""
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(s, generator=generator) for s in [(3,), (2, 4), (), (0,), (5, 1, 2)] * 5]
    starts += [
        torch.randn(4, 3, generator=generator).t(),
        torch.randn(2, 2, 2, 2).to(memory_format=torch.channels_last),
    ]
    together = [nn.Parameter(s.clone()) for s in starts]
    alone = [nn.Parameter(s.clone()) for s in starts]
    one = cls(together, lr=0.1, weight_decay=0.1)
    each = [cls([p], lr=0.1, weight_decay=0.1) for p in alone]
    for step in range(3):
        train(one, together, step, step + 1)
        for p, q, optimizer in zip(together, alone, each, strict=True):
            q.grad = p.grad.clone()
            optimizer.step()
    for p, q, optimizer in zip(together, alone, each, strict=True):
        torch.testing.assert_close(p.data, q.data, rtol=1e-6, atol=1e-7)
        assert p.stride() == q.stride()
        for key, value in optimizer.state[q].items():
            torch.testing.assert_close(one.state[p][key], value, rtol=1e-6, atol=1e-7)


def test_many_small_tensors_leave_gradients_alone() -> None:
    params = [nn.Parameter(torch.ones(3)) for _ in range(20)]
    for i, p in enumerate(params):
        p.grad = torch.full((3,), float(i))
    Chained(params, scaled(), lr=0.1, weight_decay=0.1, maximize=True).step()
    assert all(torch.equal(p.grad, torch.full((3,), float(i))) for i, p in enumerate(params))
    torch.testing.assert_close(torch.stack([p[0] for p in params]), 0.99 + 0.2 * torch.arange(20.0))


def test_decay_inside_the_chain_changes_by_group() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    groups = [{"params": [a], "weight_decay": 0.5}, {"params": [b], "weight_decay": 0.0}]
    optimizer = Chained(groups, add_decayed_weights(weight_decay=0.1), lr=1.0)
    for p in (a, b):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert a[0].item() == 0.5 and b[0].item() == 1.0


def test_profiles_name_steps() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = Lion([p])
    optimizer.step()  # before, without
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#Lion.step" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("where", ["own", "global"])
def test_hooks_before_and_after_a_step(where: str) -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = Lion([p], lr=0.5)
    optimizer.step()
    seen: list[float] = []
    if where == "own":
        handles = [optimizer.register_step_pre_hook(lambda *_: seen.append(p[0].item()))]
        handles.append(optimizer.register_step_post_hook(lambda *_: seen.append(p[0].item())))
    else:
        handles = [register_optimizer_step_pre_hook(lambda *_: seen.append(p[0].item()))]
        handles.append(register_optimizer_step_post_hook(lambda *_: seen.append(p[0].item())))
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert seen == [0.5, 0.0] and p[0].item() == -0.5
