"""Which matrices are active where subspaces are whole matrices: draws, turns, pairs, and over a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thalweg.optim import Frugal, Subspace, lion_direction
from thalweg.optim.block_order import BLOCK_ORDERS, active_blocks


@pytest.mark.parametrize(
    ("order", "count", "density", "expected"),
    [
        ("ascending", 5, 0.4, [{0, 1}, {2, 3}, {4, 0}, {1, 2}, {3, 4}, {0, 1}]),
        ("descending", 5, 0.4, [{4, 3}, {2, 1}, {0, 4}, {3, 2}, {1, 0}, {4, 3}]),
        ("mirror", 6, 0.34, [{0, 5}, {1, 4}, {2, 3}, {0, 5}]),
        ("mirror", 6, 0.67, [{0, 5, 1, 4}, {2, 3, 0, 5}, {1, 4, 2, 3}]),
        ("ascending", 3, 0.5, [{0, 1}, {2, 0}]),  # 1.5 to even
        ("ascending", 5, 0.5, [{0, 1}, {2, 3}]),  # 2.5 to even
        ("descending", 4, 1.0, [{0, 1, 2, 3}] * 2),
        ("mirror", 4, 0.0, [set()] * 2),
    ],
)
def test_turns(order: str, count: int, density: float, expected: list[set[int]]) -> None:
    assert [active_blocks(order, count, density, draw, 1) for draw in range(len(expected))] == expected


@pytest.mark.parametrize("order", ["ascending", "descending", "mirror"])
def test_every_matrix_has_its_turn(order: str) -> None:
    draws = [active_blocks(order, 8, 0.25, draw, 1) for draw in range(4)]
    assert sorted(place for draw in draws for place in draw) == list(range(8))


def test_random_draws_depend_on_seed_and_step_alone() -> None:
    draws = [active_blocks("random", 20, 0.25, draw, step, seed) for draw, step, seed in ((0, 1, 0), (7, 1, 0))]
    assert draws[0] == draws[1] and len(draws[0]) == 5
    assert len({frozenset(active_blocks("random", 20, 0.25, 0, step, seed)) for step in (1, 2) for seed in (0, 1)}) == 4


def active(optimizer: torch.optim.Optimizer) -> set[int]:
    states = [optimizer.state[p] for p in optimizer.param_groups[0]["params"]]
    return {place for place, state in enumerate(states) if state["exp_avg"].numel()}


def matrices(count: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(3, 2, generator=generator)) for _ in range(count)]


def steps(optimizer: torch.optim.Optimizer, count: int) -> list[set[int]]:
    found = []
    for _ in range(count):
        for p in optimizer.param_groups[0]["params"]:
            p.grad = 2 * p.detach()
        optimizer.step()
        found.append(active(optimizer))
    return found


@pytest.mark.parametrize("order", BLOCK_ORDERS)
def test_frugal_moves_on_every_t_steps_over_a_checkpoint_too(order: str) -> None:
    def make() -> Frugal:
        return Frugal(matrices(6), lr=1e-2, density=0.34, update_every=2, block_order=order)

    optimizer, fresh = make(), make()
    before = steps(optimizer, 3)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(optimizer.param_groups[0]["params"], fresh.param_groups[0]["params"], strict=True):
        q.data.copy_(p.data)
    after = steps(optimizer, 5)
    assert steps(fresh, 5) == after
    for p, q in zip(optimizer.param_groups[0]["params"], fresh.param_groups[0]["params"], strict=True):
        assert torch.equal(p, q)
    expected = [active_blocks(order, 6, 0.34, step // 2, step // 2 * 2 + 1) for step in range(8)]
    assert before + after == expected


def test_a_checkpoint_says_nothing_of_the_order_and_the_default_is_random() -> None:
    """Older ones therefore load."""
    assert "block_order" not in Frugal(matrices(2)).param_groups[0]
    drawn, named = Frugal(matrices(6), update_every=1), Frugal(matrices(6), update_every=1, block_order="random")
    assert steps(drawn, 4) == steps(named, 4)


def test_pairs_that_would_come_apart_are_refused_and_the_group_is_left_out() -> None:
    message = (
        "block_order='mirror' takes pairs: give it groups of an even number of matrices and a density that makes an even number of "
        "them active, not {} of {}"
    )
    for count, density, part in ((5, 0.4, 2), (6, 0.5, 3)):
        with pytest.raises(ValueError) as caught:
            Frugal(matrices(count), density=density, block_order="mirror")
        assert str(caught.value) == message.format(part, count)
    optimizer = Subspace(
        matrices(4), lion_direction(), density=0.5, basis="blocks", residual="sign", block_order="mirror"
    )
    with pytest.raises(ValueError):
        optimizer.add_param_group({"params": matrices(3), "rule": "subspace"})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))], "rule": "adamw"})
    assert len(optimizer.param_groups) == 2
