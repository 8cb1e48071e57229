"""The subspace transform: closed forms, calendar, sides, switches, inner rules, state, what is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from thalweg.linalg.subspace_basis import svd_basis
from thalweg.optim import (
    Chained,
    Fira,
    GaLore,
    Lion,
    Subspace,
    adam_direction,
    add_decayed_weights,
    add_gradient_noise,
    lion_direction,
    momentum,
    optimizer_state_bytes,
    subspace,
    trust_ratio,
)

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def run(p: nn.Parameter, optimizer: torch.optim.Optimizer, steps: range) -> torch.Tensor:
    for step in steps:
        p.grad = randoms(*p.shape, seed=100 + step)
        optimizer.step()
    return p.detach().clone()


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
def test_full_rank_is_the_rule_in_rotated_coordinates(shape: tuple[int, int]) -> None:
    """One basis for all steps: W P follows Lion run on G P (from the left: P^T W on P^T G)."""
    p = nn.Parameter(randoms(*shape))
    tall = shape[0] >= shape[1]
    first = randoms(*shape, seed=100)
    basis = svd_basis(first if tall else first.T, min(shape))
    rotated = nn.Parameter(p.detach() @ basis if tall else basis.T @ p.detach())
    inner, whole = Lion([rotated], lr=0.1), Chained([p], subspace(lion_direction(), rank=100), lr=0.1)
    for step in range(6):
        g = randoms(*shape, seed=100 + step)
        p.grad, rotated.grad = g, g @ basis if tall else basis.T @ g
        whole.step()
        inner.step()
    back = rotated.detach() @ basis.T if tall else basis @ rotated.detach()
    torch.testing.assert_close(p.detach(), back, rtol=1e-10, atol=1e-10)


def test_all_columns_are_the_rule_itself() -> None:
    p, q = nn.Parameter(randoms(4, 6)), nn.Parameter(randoms(4, 6))
    ours = Chained([p], subspace(lion_direction(), density=1.0, basis="columns", update_every=2), lr=0.1)
    assert torch.equal(run(p, ours, range(5)), run(q, Lion([q], lr=0.1), range(5)))


@pytest.mark.parametrize("every", [1, 3])
def test_calendar(every: int) -> None:
    p = nn.Parameter(randoms(5, 4))
    optimizer = Chained([p], subspace(momentum(), rank=2, update_every=every), lr=0.1)
    bases = []
    for step in range(7):
        run(p, optimizer, range(step, step + 1))
        bases.append(optimizer.state[p]["basis"].clone())
    changed = [step + 1 for step in range(7) if step == 0 or not torch.equal(bases[step], bases[step - 1])]
    assert changed == [call for call in range(1, 8) if (call - 1) % every == 0]


@pytest.mark.parametrize(
    ("side", "wide", "tall"), [("std", 4, 4), ("reverse", 6, 6), ("right", 6, 4), ("left", 4, 6), ("flat", 24, 24)]
)
def test_sides(side: str, wide: int, tall: int) -> None:
    """The basis has as many rows as what is projected is long."""
    for shape, size in (((4, 6), wide), ((6, 4), tall)):
        p = nn.Parameter(randoms(*shape))
        optimizer = Chained([p], subspace(momentum(), rank=1, side=side, basis="random"), lr=0.1)
        run(p, optimizer, range(1))
        assert optimizer.state[p]["basis"].shape == (size, 1)
        assert optimizer.state[p]["momentum_buffer"].shape == (24 // size, 1)


@pytest.mark.parametrize("basis", ["svd", "svd_both", "random", "dct2", "dct3", "haar", "columns"])
@pytest.mark.parametrize("residual", ["drop", "sign", "sgd", "scaled", "error_feedback"])
def test_transposed_problems_move_transposed(basis: str, residual: str) -> None:
    settings = {"scaling": "matrix"} if basis == "svd_both" and residual == "scaled" else {}
    p = nn.Parameter(randoms(6, 4))
    q = nn.Parameter(p.detach().T.contiguous())
    chain = subspace(adam_direction(), rank=2, basis=basis, residual=residual, update_every=2, **settings)
    ours, turned = Chained([p], chain, lr=0.1), Chained([q], chain, lr=0.1)
    for step in range(4):
        p.grad = randoms(6, 4, seed=step)
        q.grad = p.grad.T.contiguous()
        ours.step()
        turned.step()
    torch.testing.assert_close(p.detach(), q.detach().T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("basis", ["svd", "svd_both", "random"])
def test_switches_of_dense_bases(basis: str) -> None:
    moved = {}
    for on_switch in ("keep", "reset", "rotate"):
        p = nn.Parameter(randoms(5, 4))
        chain = subspace(adam_direction(), rank=2, basis=basis, on_switch=on_switch, update_every=3)
        optimizer = Chained([p], chain, lr=0.1)
        run(p, optimizer, range(3))
        before = {k: v.clone() for k, v in optimizer.state[p].items() if k != "step"}
        p.grad = torch.zeros_like(p) if basis == "random" else randoms(5, 4, seed=9)
        optimizer.step()
        moved[on_switch] = (before, optimizer.state[p], p.grad)
    for on_switch, (before, after, g) in moved.items():
        turn = before["basis"].T @ after["basis"]
        left = before["left_basis"].T @ after["left_basis"] if basis == "svd_both" else torch.eye(5, dtype=F64)
        low = g @ after["basis"] if basis != "svd_both" else after["left_basis"].T @ g @ after["basis"]
        m, v = before["exp_avg"], before["exp_avg_sq"]
        if on_switch == "reset":
            m, v = 0 * m, 0 * v
        if on_switch == "rotate":
            m, v = left.T @ m @ turn, left.square().T @ v @ turn.square()
        torch.testing.assert_close(after["exp_avg"], 0.9 * m + 0.1 * low)
        torch.testing.assert_close(after["exp_avg_sq"], 0.999 * v + 0.001 * low.square())


def test_a_refit_keeps_signs_and_a_zero_gradient_the_basis() -> None:
    p = nn.Parameter(randoms(5, 4))
    optimizer = Chained([p], subspace(momentum(), rank=4, update_every=1), lr=0.1)
    zero = nn.Parameter(randoms(5, 4))
    at_once = Chained([zero], subspace(momentum(), rank=2, update_every=1), lr=0.1)
    zero.grad = torch.zeros_like(zero)
    at_once.step()
    assert torch.equal(at_once.state[zero]["basis"], torch.eye(4, 2, dtype=F64))
    for sign in (1, -1, 0):
        p.grad = sign * randoms(5, 4)
        optimizer.step()
        basis = optimizer.state[p]["basis"].clone()
        if sign == 1:
            first = basis
        torch.testing.assert_close(basis, first, rtol=0, atol=1e-9)


@pytest.mark.parametrize("basis", ["svd", "columns", "dct2"])
@pytest.mark.parametrize("stop", [2, 3])
def test_resumes_bit_by_bit_within_and_across_refreshes(basis: str, stop: int) -> None:
    chain = subspace(adam_direction(), rank=2, basis=basis, residual="scaled", on_switch="rotate", update_every=3)
    p = nn.Parameter(randoms(5, 4))
    optimizer = Chained([p], chain, lr=0.1)
    run(p, optimizer, range(stop))
    q = nn.Parameter(p.detach().clone())
    fresh = Chained([q], chain, lr=0.1)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(run(p, optimizer, range(stop, 8)), run(q, fresh, range(stop, 8)))


def test_equal_shapes_together_equal_each_alone() -> None:
    chain = subspace(adam_direction(), rank=2, residual="scaled", update_every=2)
    params = [nn.Parameter(randoms(5, 4, seed=i)) for i in range(3)]
    alone = [nn.Parameter(p.detach().clone()) for p in params]
    optimizer, each = Chained(params, chain, lr=0.1), [Chained([p], chain, lr=0.1) for p in alone]
    for step in range(4):
        for i, (p, q) in enumerate(zip(params, alone, strict=True)):
            p.grad, q.grad = (randoms(5, 4, seed=10 * step + i) for _ in range(2))
            each[i].step()
        optimizer.step()
    for p, q in zip(params, alone, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-12)


def test_seeds() -> None:
    ends = []
    for seed in (0, 0, 1):
        p = nn.Parameter(randoms(8, 8))
        ends.append(run(p, Chained([p], subspace(momentum(), rank=2, basis="random", seed=seed), lr=0.1), range(2)))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_hyperparameters_are_in_the_groups_and_may_differ() -> None:
    a, b = nn.Parameter(randoms(6, 4)), nn.Parameter(randoms(6, 4))
    optimizer = Chained([{"params": [a]}, {"params": [b], "rank": 1}], subspace(lion_direction(), rank=3), lr=0.1)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99) and optimizer.param_groups[0]["update_every"] == 200
    a.grad, b.grad = randoms(6, 4), randoms(6, 4)
    optimizer.step()
    assert [optimizer.state[p]["exp_avg"].shape for p in (a, b)] == [(6, 3), (6, 1)]
    before = optimizer.state[a]["exp_avg"].clone()
    optimizer.param_groups[0]["betas"] = (0.9, 0.5)
    run(a, optimizer, range(1))
    low = a.grad @ optimizer.state[a]["basis"]
    torch.testing.assert_close(optimizer.state[a]["exp_avg"], 0.5 * before + 0.5 * low)


def test_types_are_shared_and_pickled() -> None:
    first, second = (subspace(momentum(), rank=2, residual="sgd") for _ in range(2))
    assert first == second == pickle.loads(pickle.dumps(first)) == copy.deepcopy(first)
    assert first != subspace(momentum(), rank=2) and "subspace[svd, sgd, keep](" in repr(first)


@pytest.mark.parametrize(("cls", "extra"), [(GaLore, 0), (Fira, 1)])
def test_state_is_small(cls: type, extra: int) -> None:
    """Rank 64 over the matrices of a transformer of 14M parameters, projectors counted, against AdamW's two tensors."""
    shapes = [(1152, 384), (384, 384), (1536, 384), (384, 1536)] * 6
    params = [nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]
    optimizer = cls(params, rank=64)
    (group,) = optimizer.param_groups
    for p in params:
        optimizer._init_state(p, optimizer.state[p], optimizer.rule_of(group), group)
    kept = [sum(v.nbytes for v in optimizer.state[p].values() if torch.is_tensor(v)) for p in params]
    assert kept == [4 * (64 * (2 * max(s) + min(s)) + extra) for s in shapes]
    assert sum(kept) <= 0.25 * sum(8 * p.numel() for p in params)
    assert round(sum(kept) / sum(8 * p.numel() for p in params), 3) == 0.194


def test_bytes_of_index_bases() -> None:
    p = nn.Parameter(randoms(6, 4).float())
    optimizer = Chained([p], subspace(lion_direction(), rank=2, basis="dct2"), lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer_state_bytes(optimizer) == 4 * (6 * 2 + 2)


def test_blocks_are_a_share_of_the_matrices() -> None:
    params = [nn.Parameter(randoms(3, 4, seed=i)) for i in range(4)]
    optimizer = Subspace(params, lion_direction(), lr=0.1, density=0.5, basis="blocks", residual="sign", update_every=2)
    seen, last = set(), ()
    for step in range(12):
        for i, p in enumerate(params):
            p.grad = randoms(3, 4, seed=10 * step + i)
        optimizer.step()
        active = tuple(i for i, p in enumerate(params) if optimizer.state[p]["exp_avg"].numel())
        assert len(active) == 2 and all(optimizer.state[p]["exp_avg"].shape in {(3, 4), (0, 4)} for p in params)
        assert step % 2 == 0 or active == last
        last = active
        seen.add(active)
    assert len(seen) > 1
    q = copy.deepcopy(optimizer)
    assert [s["active"].shape for s in q.state.values()] == [s["active"].shape for s in optimizer.state.values()]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: subspace(momentum()), "give either rank or density, not both or none"),
        (lambda: subspace(momentum(), rank=2, density=0.5), "give either rank or density, not both or none"),
        (lambda: subspace(momentum(), density=1.5), "Invalid density: 1.5 (must be in [0, 1])"),
        (lambda: subspace(momentum(), rank=2, update_every=0), "Invalid update_every: 0 (must be a whole number >= 1)"),
        (lambda: subspace(momentum(), rank=2, basis="fourier"),
         "unknown basis 'fourier' (choose from svd, random, svd_both, dct2, dct3, haar, columns, blocks)"),
        (lambda: subspace(momentum(), rank=2, residual="keep"),
         "unknown residual 'keep' (choose from drop, sign, sgd, scaled, error_feedback)"),
        (lambda: subspace(momentum(), rank=2, on_switch="drop"), "unknown on_switch 'drop' (choose from keep, reset, rotate)"),
        (lambda: subspace(momentum(), rank=2, side="top"), "unknown side 'top' (choose from std, reverse, right, left, flat)"),
        (lambda: subspace(momentum(), density=0.5, basis="blocks"),
         "basis='blocks' chooses among an optimizer's matrices: use Subspace or Frugal for it"),
        (lambda: subspace(momentum(), rank=2, basis="svd_both", residual="scaled"),
         "basis='svd_both' has no long side: set scaling='matrix'"),
        (lambda: subspace(momentum(), rank=2, residual="scaled", norm_growth_limit=0.9),
         "Invalid norm_growth_limit: 0.9 (must be None or a number >= 1)"),
        (lambda: subspace(trust_ratio(), rank=2),
         "trust_ratio can't run in a subspace: it needs norms over whole tensors; put it before or after"),
        (lambda: subspace(add_gradient_noise(), rank=2),
         "add_gradient_noise can't run in a subspace: it needs normal; put it before or after"),
        (lambda: subspace(add_decayed_weights(), rank=2),
         "add_decayed_weights can't run in a subspace: it needs the weights; put it before or after"),
        (lambda: Chained([nn.Parameter(torch.ones(2, 2))], subspace(momentum(), rank=0)),
         "Invalid rank: 0 (must be a whole number >= 1)"),
        (lambda: Subspace([nn.Parameter(torch.ones(2, 2))], momentum(), rank=2, basis="blocks"),
         "basis='blocks' needs density, the share of matrices that are active"),
        (lambda: GaLore([{"params": [nn.Parameter(torch.ones(2))]}]),
         "a matrix rule needs parameters of two dimensions or more, not shape (2,)"),
    ],
)  # fmt: skip
def test_refused(make, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_foreign_hyperparameters_are_refused() -> None:
    with pytest.raises(TypeError, match=r"has no hyper-parameter 'residual_scale'"):
        subspace(momentum(), rank=2, residual_scale=2.0)
