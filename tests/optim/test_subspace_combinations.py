"""All bases, residuals, switches and sides together: each trains and can be copied and saved, or is refused when it is made."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from thalweg.optim import (
    Frugal,
    Subspace,
    adam_direction,
    lion_direction,
    momentum,
    natural_gradient,
    normalize_neurons,
    orthogonalize,
)
from thalweg.optim.gradient_projector import PROJECTORS
from thalweg.optim.matrix_sides import SIDES
from thalweg.optim.subspace import RESIDUALS, SWITCHES

F64 = torch.float64
REFUSED = {
    (
        "blocks",
        "scaled",
    ): "basis='blocks' has no ratio for residual='scaled', its residual being whole matrices: choose another",
    ("svd_both", "scaled"): "basis='svd_both' has no long side: set scaling='matrix'",
}


def matrices(count: int = 1) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(5, 4, generator=generator, dtype=F64)) for _ in range(count)]


def loss(params: list[nn.Parameter]) -> float:
    return sum(p.square().sum().item() for p in params)


def steps(optimizer: torch.optim.Optimizer, count: int) -> list[torch.Tensor]:
    params = optimizer.param_groups[0]["params"]
    for _ in range(count):
        for p in params:
            p.grad = 2 * p.detach()
        optimizer.step()
    return [p.detach() for p in params]


def check(make) -> None:
    """The loss falls; a copy and a fresh optimizer with its state dict, made before a refresh, go on bit by bit as it does."""
    params = make(None).param_groups[0]["params"]
    optimizer = make(params)
    start = loss(params)
    steps(optimizer, 2)
    copied = copy.deepcopy(optimizer)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    loaded = make(others)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    ends = [steps(o, 1) for o in (optimizer, copied, loaded)]
    assert loss(params) < start
    for p, q, r in zip(*ends, strict=True):
        assert torch.equal(p, q) and torch.equal(p, r)


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("basis", PROJECTORS)
def test_every_combination_trains_or_is_refused(basis: str, residual: str) -> None:
    size = {"density": 0.5} if basis == "blocks" else {"rank": 2}
    for on_switch, side in itertools.product(SWITCHES, SIDES):
        choices = {"basis": basis, "residual": residual, "on_switch": on_switch, "side": side, **size}

        def make(params: list[nn.Parameter] | None, choices=choices, **more) -> Subspace:
            given = params or matrices(2 if "density" in choices else 1)
            return Subspace(given, adam_direction(), lr=1e-2, update_every=2, **choices, **more)

        if (basis, residual) in REFUSED:
            with pytest.raises(ValueError) as caught:
                make(None)
            assert str(caught.value) == REFUSED[basis, residual]
        else:
            check(make)
    if (basis, residual) == ("svd_both", "scaled"):
        check(lambda params: make(params, scaling="matrix"))


@pytest.mark.parametrize("rule", [momentum(ema=True) >> orthogonalize(), orthogonalize() >> lion_direction()])
@pytest.mark.parametrize("basis", [basis for basis in PROJECTORS if basis != "blocks"])
@pytest.mark.parametrize("size", [3, 400])
def test_a_density_that_comes_to_no_rank_leaves_the_residual_alone(basis: str, rule, size: int) -> None:
    """Rules of matrices aren't asked what to make of an empty one. (The larger matrix goes another way through the engine.)"""
    p = nn.Parameter(torch.ones(size, size))
    optimizer = Subspace([p], rule, lr=0.5, density=0.1 / size, basis=basis, residual="sign", update_every=2)
    for step in range(1, 4):
        p.grad = torch.full_like(p, -2.0)
        optimizer.step()
        assert torch.equal(p.detach(), torch.full_like(p, 1 + 0.5 * step))


@pytest.mark.parametrize(
    "rule",
    [
        momentum(ema=True) >> orthogonalize(ns_dtype="float64"),
        orthogonalize(ns_dtype="float64") >> normalize_neurons(),
        natural_gradient(history=3, update_every=2) >> lion_direction(),
    ],
)
def test_blocks_take_rules_of_matrices(rule) -> None:
    """State of any shape comes and goes with the blocks."""

    def make(params: list[nn.Parameter] | None) -> Subspace:
        given = params or matrices(3)
        return Subspace(given, rule, lr=1e-2, density=0.34, basis="blocks", residual="sgd", update_every=2)

    check(make)
    optimizer = make(None)
    for _ in range(5):
        steps(optimizer, 2)
        sizes = [sum(v.numel() for k, v in s.items() if k != "step") for s in optimizer.state.values()]
        assert sum(size > 0 for size in sizes) == 1


def test_what_belongs_to_one_basis_is_refused_for_others() -> None:
    for make, message in (
        (lambda p: Subspace(p, momentum(), rank=1, basis="random", align_signs=False),
         "align_signs=False is for basis='svd' and 'svd_both', not 'random'"),
        (lambda p: Subspace(p, momentum(), rank=1, block_order="ascending"),
         "block_order='ascending' is for basis='blocks', not 'svd'"),
        (lambda p: Frugal(p, projection="columns", block_order="mirror"),
         "block_order='mirror' is for basis='blocks', not 'columns'"),
        (lambda p: Frugal(p, block_order="up"),
         "unknown block_order 'up' (choose from random, ascending, descending, mirror)"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as caught:
            make(matrices())
        assert str(caught.value) == message
