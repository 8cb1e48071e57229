"""What matrix transforms keep: its shape, dtype, place in the optimizer's state, checkpoints and bytes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from thalweg.optim import Chain, Chained, matrix, momentum, optimizer_state_bytes
from thalweg.optim.engine.matrices import View
from thalweg.optim.engine.owners import _Results, _Rows
from thalweg.optim.engine.passes import memory_words

seen: list[tuple[tuple[int, ...], int]] = []


def need_rank(m: int, n: int, rank: int, **_: object) -> tuple[int, int]:
    if rank > min(m, n):
        raise ValueError(f"rank {rank} is too much for a {m} x {n} matrix")
    return rank, n


@matrix(
    state={
        "second_momentum": lambda m, n, **_: (m, 1),
        "basis": need_rank,
        "count": (lambda m, n, **_: (1,), torch.int64),
    },
    prepare=lambda step, every, **_: {"due": float(step % every == 1)},
)
def projected(
    stack: Tensor, state: dict[str, Tensor], *, step: int, due: float, rank: int = 2, every: int = 3, beta: float = 0.5
) -> Tensor:
    """Uses every kind of state: one number a row, a basis refreshed now and then, a whole number."""
    assert stack.shape[:2] == state["second_momentum"].shape[:2]
    seen.append((tuple(stack.shape), step))
    if due:
        state["basis"] = stack[:, : state["basis"].shape[1]] + 0.0
        state["count"] = state["count"] + 1
    mean = stack.square().mean(-1, keepdim=True)
    state["second_momentum"] = beta * state["second_momentum"] + (1 - beta) * mean
    return stack / (state["second_momentum"].sqrt() + 1e-8) + 0.1 * state["basis"].sum(1, keepdim=True)


@matrix(state={"scalar": lambda m, n, **_: ()})
def without_dimension(stack: Tensor, state: dict[str, Tensor]) -> Tensor:
    return stack


@matrix()
def by_rows(stack: Tensor) -> tuple[Tensor, Tensor]:
    """Every row over its largest number."""
    return stack, 1 / stack.abs().amax(-1, keepdim=True)


@matrix()
def times_ten(stack: Tensor) -> Tensor:
    return 10 * stack


def randoms(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))


def test_shapes_follow_the_matrices(train) -> None:
    params = [randoms(4, 6), randoms(4, 2, 3), randoms(6, 4), randoms(3, 4, 6)]
    groups = [{"params": params[:3]}, {"params": params[3:], "batched": True, "rank": 3}]
    optimizer = Chained(groups, momentum() >> projected(), lr=0.1)
    seen.clear()
    train(optimizer, params, 0, 2)
    shapes = [{k: tuple(v.shape) for k, v in optimizer.state[p].items() if k not in ("step", "count")} for p in params]
    assert shapes == [
        {"momentum_buffer": (4, 6), "second_momentum": (4, 1), "basis": (2, 6)},
        {"momentum_buffer": (4, 2, 3), "second_momentum": (4, 1), "basis": (2, 6)},
        {"momentum_buffer": (6, 4), "second_momentum": (6, 1), "basis": (2, 4)},
        {"momentum_buffer": (3, 4, 6), "second_momentum": (3, 4, 1), "basis": (3, 3, 6)},
    ]
    assert optimizer.state[params[3]]["count"].shape == (3, 1)
    assert sorted(seen) == sorted([((2, 4, 6), s) for s in (1, 2)] + [((1, 6, 4), s) for s in (1, 2)] + [
        ((3, 4, 6), s) for s in (1, 2)
    ])  # fmt: skip


def test_stacks_and_experts_equal_each_matrix_alone(train) -> None:
    together = [randoms(4, 6, seed=i) for i in range(3)]
    experts = nn.Parameter(torch.stack([p.detach() for p in together]))
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    first = Chained(together, projected(), lr=0.1)
    second = Chained([{"params": [experts], "batched": True}], projected(), lr=0.1)
    each = [Chained([p], projected(), lr=0.1) for p in alone]
    for step in range(5):
        train(first, together, step, step + 1)
        experts.grad = torch.stack([p.grad for p in together])
        second.step()
        for p, q, optimizer in zip(alone, together, each, strict=True):
            p.grad = q.grad.clone()
            optimizer.step()
    for i, p in enumerate(alone):
        assert torch.equal(p, together[i]) and torch.equal(p, experts[i])
        for key in projected.state:
            assert torch.equal(each[i].state[p][key], first.state[together[i]][key])
            assert torch.equal(each[i].state[p][key], second.state[experts][key][i])
    assert first.state[together[0]]["count"].item() == 2  # calls 1 and 4


def test_state_by_hand() -> None:
    p = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = Chained([p], projected(rank=1, every=100), lr=1.0)
    p.grad = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
    optimizer.step()
    state = optimizer.state[p]
    assert state["second_momentum"].flatten().tolist() == [6.25, 6.25] and state["basis"].tolist() == [[3.0, 4.0]]
    torch.testing.assert_close(p.data, -(p.grad / (2.5 + 1e-8) + 0.1 * p.grad[:1]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, torch.bfloat16], ids=str)
def test_dtypes_last_over_checkpoints(train, same, dtype, state_dtype) -> None:
    optimizer = Chained(params := [randoms(4, 6, dtype=dtype)], projected(), lr=0.1, state_dtype=state_dtype)
    train(optimizer, params, 0, 2)
    wanted = {
        "second_momentum": state_dtype or torch.float32,
        "basis": state_dtype or torch.float32,
        "count": torch.int64,
    }
    resumed = [nn.Parameter(params[0].detach().clone())]
    fresh = Chained(resumed, projected(), lr=0.1, state_dtype=state_dtype)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for found in (optimizer.state[params[0]], fresh.state[resumed[0]]):
        assert {k: v.dtype for k, v in found.items() if k != "step"} == wanted
    for step in range(2, 6):
        train(optimizer, params, step, step + 1)
        train(fresh, resumed, step, step + 1)
    assert same(params, resumed)


@pytest.mark.parametrize("compiled", [False, True])
def test_scales_of_rows(compiled: bool) -> None:
    """Small tensors are scaled at once, large ones in the next pass."""
    every = [
        ((200, 200), {}),
        ((4, 6), {}),
        ((40, 3, 20, 20), {}),
        ((3, 4, 6), {"batched": True}),
        ((6, 4), {"split": 3}),
    ]
    cases = every[:1] if compiled else every
    params = [randoms(*shape) for shape, _ in cases]
    groups = [{"params": [p], **kind} for p, (_, kind) in zip(params, cases, strict=True)]
    starts = [p.detach().clone() for p in params]
    optimizer = Chained(groups, momentum(momentum=0.0) >> by_rows(), lr=1.0, compile=compiled)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    for p, start in zip(params, starts, strict=True):
        rows = p.grad.flatten(2 if p.ndim == 3 else 1).abs().amax(-1)
        wanted = start - p.grad / rows.view(*rows.shape, *[1] * (p.ndim - rows.ndim))
        torch.testing.assert_close(p.data, wanted, rtol=1e-12, atol=1e-12)


def test_a_scale_before_another_matrix_transform() -> None:
    p = nn.Parameter(torch.zeros(2, 2))
    p.grad = torch.tensor([[1.0, 2.0], [4.0, 1.0]])
    Chained([p], by_rows() >> times_ten(), lr=1.0).step()
    assert p.tolist() == [[-5.0, -10.0], [-10.0, -2.5]]


def test_fused_matrices_equal_their_parts(train) -> None:
    """A matrix of three parts on top of each other moves as three matrices do, and keeps state for each."""
    fused = randoms(12, 6)
    parts = [nn.Parameter(fused.detach()[4 * i : 4 * i + 4].clone()) for i in range(3)]
    whole = Chained([{"params": [fused], "split": 3}], projected(), lr=0.1)
    each = Chained(parts, projected(), lr=0.1)
    for step in range(5):
        train(whole, [fused], step, step + 1)
        for i, p in enumerate(parts):
            p.grad = fused.grad[4 * i : 4 * i + 4].clone()
        each.step()
    assert torch.equal(fused, torch.cat(list(parts)))
    assert torch.equal(whole.state[fused]["basis"], torch.stack([each.state[p]["basis"] for p in parts]))
    with pytest.raises(ValueError, match=r"^split=5 doesn't divide the 12 rows of a parameter of shape \(12, 6\)$"):
        Chained([{"params": [fused], "split": 5}], projected())


def test_dtypes_of_results_are_known_to_processes_without_matrices() -> None:
    rows = [[_Rows(torch.float32, (0, 6))], [_Rows(torch.float32, (12, 6)), _Rows(torch.float64, (3, 4, 1))]]

    def widen(stack: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        assert stack.shape == (1, 4, 6) and state["kept"].shape == (1, 4, 1)
        return stack.to(torch.float64), state["kept"]

    shapes = [(1, 0, 6), (3, 4, 6)]
    trial = _Results.by_trial(widen, torch.zeros(0), rows, shapes, ["kept"], View(split=3))
    assert trial == _Results(torch.float64, torch.float64)
    assert _Results.by_trial(widen, torch.zeros(0), rows[:1], shapes[:1], [], View()) == (torch.float32, None)
    assert _Results.of([torch.zeros(0, 6), torch.zeros(2, 6)], [None, None]) == (torch.float32, None)


def test_bytes_and_words(train) -> None:
    optimizer = Chained(params := [randoms(4, 6, dtype=torch.float32)], momentum() >> projected(), lr=0.1)
    train(optimizer, params, 0, 1)
    assert optimizer_state_bytes(optimizer) == 4 * (24 + 4 + 12) + 8
    assert memory_words(momentum() >> projected()) == 5
    assert Chain.of(projected()).needs_step


def test_a_rank_that_changes_applies_to_new_parameters(train) -> None:
    late, early = randoms(4, 6), randoms(4, 6)
    optimizer = Chained([early, late], projected(every=2), lr=0.1)
    early.grad = torch.ones_like(early)
    optimizer.step()
    optimizer.param_groups[0]["rank"] = 3
    train(optimizer, [early, late], 1, 4)
    assert [optimizer.state[p]["basis"].shape[0] for p in (early, late)] == [2, 3]


def test_empty_matrices_and_missing_gradients(train) -> None:
    empty, idle, used = randoms(0, 6), randoms(4, 6), randoms(4, 6)
    optimizer = Chained([empty, idle, used], projected(rank=0), lr=0.1)
    for p in (empty, used):
        p.grad = torch.ones_like(p)
    before = idle.detach().clone()
    optimizer.step()
    assert torch.equal(idle, before) and idle not in optimizer.state
    assert optimizer.state[empty]["second_momentum"].shape == (0, 1)


def test_refused_at_construction() -> None:
    with pytest.raises(ValueError, match=r"^rank 7 is too much for a 4 x 6 matrix$"):
        Chained([randoms(4, 6)], projected(rank=7))
    with pytest.raises(TypeError, match=r"^without_dimension: state 'scalar' needs a dimension; \(1,\) holds one"):
        Chained([randoms(4, 6)], without_dimension())
