"""Projectors: what is zero by theory at a refit is zero, so that precisions agree; signs as torch gives them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from thalweg.optim import Chained, adam_direction, lion_direction, subspace
from thalweg.optim.gradient_projector import PROJECTORS

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def of_rank(k: int, m: int, n: int, seed: int = 0) -> torch.Tensor:
    return randoms(m, k, seed=seed) @ randoms(k, n, seed=seed + 100)


@pytest.mark.parametrize("align_signs", [True, False])
@pytest.mark.parametrize("rule", [lion_direction(), adam_direction()])
@pytest.mark.parametrize("shape", [(8, 6), (6, 8), (40, 30)])
def test_two_sided_steps_are_the_same_in_both_precisions(shape: tuple[int, int], rule, align_signs: bool) -> None:
    """At a refit the projected gradient is diagonal: a step of size 1 for each singular value, and none for rounding beside them.

    In later steps the other entries are real, and precisions agree as far as float32 goes.
    """
    params = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for dtype in (F64, torch.float32)]
    chain = subspace(rule, rank=4, basis="svd_both", update_every=3, align_signs=align_signs)
    optimizers = [Chained([p], chain, lr=1.0) for p in params]
    for step in range(1, 6):
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = randoms(*shape, seed=step).to(p.dtype)
            optimizer.step()
        if (
            align_signs or step < 4
        ):  # single and double precision routines may sign otherwise, which counts from the second refit on
            assert (params[0] - params[1]).abs().max() < 1e-4, step
        if step == 1:
            u, s, v = torch.linalg.svd(params[0].grad, full_matrices=False)
            sizes = 1 if rule == lion_direction() else s[:4] / (s[:4] + 1e-8)
            expected = -(u[:, :4] * sizes) @ v[:4]
            torch.testing.assert_close(params[0].detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("k", [1, 3])
def test_beyond_the_rank_of_a_gradient_nothing_is_left(k: int, dtype: torch.dtype) -> None:
    """Fewer examples than the subspace's rank: a sign of rounding would be a full-size step in an arbitrary direction."""
    g = of_rank(k, 30, 20)
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    p = nn.Parameter(torch.zeros(30, 20, dtype=dtype))
    optimizer = Chained([p], subspace(lion_direction(), rank=6, basis="svd_both"), lr=1.0)
    p.grad = g.to(dtype)
    optimizer.step()
    torch.testing.assert_close(p.detach().to(F64), -u[:, :k] @ v[:k], rtol=0, atol=1e-5)
    assert (optimizer.state[p]["exp_avg"] != 0).sum() == k


def test_small_singular_values_stay() -> None:
    """Only what is within a few eps of the largest counts as rounding."""
    u, _, v = torch.linalg.svd(randoms(5, 5))
    x = (u * torch.tensor([1.0, 1e-2, 1e-4, 1e-5, 0.0], dtype=F64)) @ v
    kept = {name: torch.zeros(1, 5, 5) for name in ("basis", "left_basis")}
    _, low = PROJECTORS["svd_both"]().fit(x.float()[None], kept, torch.Generator(), 1)
    values = low[0].diagonal().abs()
    torch.testing.assert_close(values[:4], torch.tensor([1.0, 1e-2, 1e-4, 1e-5]), rtol=2e-2, atol=0)
    assert values[4] == 0 and torch.equal(low[0], low[0].diagonal().diag())


@pytest.mark.parametrize("bad", [0.0, float("nan")])
def test_without_singular_vectors_the_gradient_is_projected_as_it_is(bad: float) -> None:
    """Nothing is set to zero where the old bases stay, to which the gradient wasn't fitted."""
    x = torch.stack([torch.full((4, 3), bad), randoms(4, 3).float()])
    kept = {"basis": torch.zeros(2, 3, 2), "left_basis": torch.zeros(2, 4, 2)}
    for align_signs in (True, False):
        new, low = PROJECTORS["svd_both"](align_signs=align_signs).fit(x, kept, torch.Generator(), 1)
        assert torch.equal(new["basis"][0], torch.eye(3, 2)) and torch.equal(new["left_basis"][0], torch.eye(4, 2))
        assert torch.equal(low[0].isnan(), torch.full((2, 2), bad != 0)) and (low[0].nan_to_num() == 0).all()
        assert low[1].isfinite().all() and (low[1].diagonal() != 0).all()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("basis", ["svd", "svd_both"])
def test_signs_that_torch_gives(basis: str, turned: bool) -> None:
    projector = PROJECTORS[basis](align_signs=False)
    for seed in range(5):
        w = randoms(7, 5, seed=seed).float()
        u, _, v = torch.linalg.svd(w, full_matrices=False)
        x = (w.mT if turned else w)[None]
        kept = {"basis": torch.ones(1, x.shape[2], 3), "left_basis": torch.ones(1, x.shape[1], 3)}
        new, _ = projector.fit(x, {name: kept[name] for name in projector.names}, torch.Generator(), 1, turned)
        right, left = (u, v.mT) if turned else (v.mT, u)
        assert torch.equal(new["basis"][0], right[:, :3])
        assert basis == "svd" or torch.equal(new["left_basis"][0], left[:, :3])


def test_signs_don_t_count_where_the_state_starts_anew_or_turns_along() -> None:
    for on_switch in ("reset", "rotate"):
        ends = []
        for align_signs in (True, False):
            p = nn.Parameter(randoms(6, 4))
            chain = subspace(adam_direction(), rank=2, on_switch=on_switch, update_every=2, align_signs=align_signs)
            optimizer = Chained([p], chain, lr=0.1)
            for step in range(7):
                p.grad = randoms(6, 4, seed=step + 1)
                optimizer.step()
            ends.append(p.detach())
        torch.testing.assert_close(*ends, rtol=1e-10, atol=1e-10)


def test_types_know_their_signs_and_older_pickles_load() -> None:
    aligned, raw = (subspace(lion_direction(), rank=2, align_signs=a) for a in (True, False))
    assert aligned != raw
    for one in (aligned, raw):
        assert one == pickle.loads(pickle.dumps(one)) == copy.deepcopy(one)
    restore, plan = aligned.type.__reduce__()
    assert restore(*plan[:6]) is aligned.type  # as written before there were signs to choose
    (group,) = Chained([nn.Parameter(torch.ones(3, 3))], raw, lr=1.0).param_groups
    assert "align_signs" not in group  # so that older checkpoints load, too
