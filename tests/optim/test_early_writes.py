"""Copies moved forward in the graph of a pass, and sums that read at several places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from thalweg.optim.engine.early_writes import write_early
from thalweg.optim.engine.totals import total
from thalweg.optim.engine.tracing import traced

aten = torch.ops.aten
SHAPES = ((4, 3), (4, 3), (4, 3))


def moved(step: Callable[..., None]) -> tuple[list[Node], Callable[[], None]]:
    """The nodes of a step of gradient, state and parameter after copies were moved; and a test that its results are the same."""
    tensors = [torch.randn(s, generator=torch.Generator().manual_seed(k)) for k, s in enumerate(SHAPES)]
    traced: GraphModule = make_fx(step)(*[t.clone() for t in tensors])
    write_early(traced.graph)
    traced.recompile()

    def check() -> None:
        expected, found = [t.clone() for t in tensors], [t.clone() for t in tensors]
        step(*expected)
        traced(*found)
        assert all(map(torch.equal, expected, found))

    return list(traced.graph.nodes), check


def places(nodes: list[Node], *targets: object) -> list[int]:
    return [number for number, node in enumerate(nodes) if node.target in targets]


def test_a_state_is_written_before_the_sum_over_it_and_read_from_there() -> None:
    def step(g: Tensor, m: Tensor, p: Tensor) -> None:
        new = m * 0.9 + g
        moved_by = p - new * (new.square().sum().sqrt() / p.square().sum().sqrt())
        m.copy_(new)
        p.copy_(moved_by)

    nodes, check = moved(step)
    first, second = places(nodes, aten.copy_.default)
    assert first < min(places(nodes, aten.sum.default)) < second
    assert nodes[first].args[1] not in {other for node in nodes[first + 1 :] for other in node.all_input_nodes}
    check()


def test_not_before_old_numbers_are_wanted() -> None:
    def step(g: Tensor, m: Tensor, p: Tensor) -> None:
        new = m * 0.9 + g
        moved_by = p - new * (new - m).square().sum()
        m.copy_(new)
        p.copy_(moved_by)

    nodes, check = moved(step)
    assert min(places(nodes, aten.copy_.default)) > max(places(nodes, aten.sum.default))
    check()


@pytest.mark.parametrize("rows", [lambda x: x.sum(1, keepdim=True), lambda x: x.view(2, -1)[0].sum()])
def test_not_before_sums_whose_loops_differ(rows: Callable[[Tensor], Tensor]) -> None:
    def step(g: Tensor, m: Tensor, p: Tensor) -> None:
        new = m * 0.9 + g
        moved_by = p - new * rows(new.square())
        m.copy_(new)
        p.copy_(moved_by)

    nodes, check = moved(step)
    assert min(places(nodes, aten.copy_.default)) > max(places(nodes, aten.sum.default, aten.sum.dim_IntList))
    check()


def test_passes_over_one_parameter_follow_each_other() -> None:
    """As functions without side effects are traced: all copies in the end."""

    def step(g: Tensor, m: Tensor, p: Tensor) -> None:
        new = [each * (each * g).sum(1, keepdim=True) for each in (m, p)]
        m.copy_(new[0])
        p.copy_(new[1])

    nodes, check = moved(step)
    (first, _), (_, second) = places(nodes, aten.copy_.default), places(nodes, aten.sum.dim_IntList)
    assert first < second
    check()


def test_old_numbers_wanted_after_another_state_is_written() -> None:
    """The first state can be written early, the second not, though the first is made of it."""

    def step(g: Tensor, m: Tensor, p: Tensor) -> None:
        new = m * p + g
        scale = new.square().sum()
        m.copy_(new)
        p.copy_(p * 0.9 + (p - g).square().sum() + scale)

    _, check = moved(step)
    check()


def test_what_is_no_input_stays() -> None:
    def step(g: Tensor, m: Tensor, p: Tensor) -> None:
        scratch = torch.empty_like(g)
        scratch.copy_(g * 2)
        m.copy_(g)
        p.copy_(scratch.sum() * p)

    nodes, check = moved(step)
    assert len(places(nodes, aten.copy_.default)) == 3
    check()


@pytest.mark.parametrize("shape", [(8,), (3, 4), (5, 3), (0,), (2, 2, 3)])
def test_totals_are_the_same_compiled(shape: tuple[int, ...]) -> None:
    x, y = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return total(torch.mul, x, y), total(torch.square, x.t() if x.ndim == 2 else x)

    with traced():
        compiled = make_fx(both)(x, y)
    for found, expected in zip(compiled(x, y), ((x * y).sum(), x.square().sum()), strict=True):
        torch.testing.assert_close(found, expected)
