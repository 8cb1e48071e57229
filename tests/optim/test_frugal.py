"""FRUGAL: AdamW at density 1, sign descent at 0, the parts in between, GaLore as a corner, draws."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thalweg.optim import Frugal, GaLore, lion_direction, optimizer_state_bytes

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def steps(p: nn.Parameter, optimizer: torch.optim.Optimizer, which: range) -> torch.Tensor:
    for step in which:
        p.grad = randoms(*p.shape, seed=50 + step)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("projection", ["block", "columns", "rows", "randk"])
@pytest.mark.parametrize("on_switch", ["reset", "keep"])
def test_density_one_is_adamw(projection: str, on_switch: str) -> None:
    p, q = nn.Parameter(randoms(4, 6)), nn.Parameter(randoms(4, 6))
    settings = {"lr": 0.01, "weight_decay": 0.1}
    ours = Frugal([p], density=1.0, projection=projection, on_switch=on_switch, update_every=5, **settings)
    theirs = torch.optim.AdamW([q], **settings)
    count = 5 if on_switch == "reset" else 12
    torch.testing.assert_close(steps(p, ours, range(count)), steps(q, theirs, range(count)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("projection", ["block", "columns", "rows", "randk", "svd", "random", "dct"])
def test_density_zero_is_sign_descent(projection: str) -> None:
    p = nn.Parameter(randoms(4, 6))
    w, g = p.detach().clone(), randoms(4, 6, seed=50)
    optimizer = Frugal(
        [p], lr=0.1, density=0.0, projection=projection, weight_decay=0.5, state_free_scale=0.3, scale=2.0
    )
    steps(p, optimizer, range(1))
    torch.testing.assert_close(p.detach(), 0.95 * w - 0.1 * 2.0 * 0.3 * g.sign(), rtol=0, atol=1e-12)
    assert optimizer_state_bytes(optimizer) == 0


@pytest.mark.parametrize("projection", ["columns", "rows"])
def test_chosen_columns_follow_adamw_alone_and_others_their_sign(projection: str) -> None:
    w = randoms(6, 6) if projection == "columns" else randoms(6, 6).T
    p = nn.Parameter(w.clone())
    optimizer = Frugal([p], lr=0.1, density=0.34, projection=projection, state_free_scale=0.2)
    grads = [randoms(6, 6, seed=step) for step in range(3)]
    for g in grads:
        p.grad = g
        optimizer.step()
    turned = (lambda x: x) if projection == "columns" else (lambda x: x.T)
    columns = optimizer.state[p]["columns"].long()
    assert len(columns) == 2
    alone = nn.Parameter(turned(w)[:, columns].clone())
    adamw = torch.optim.AdamW([alone], lr=0.1, weight_decay=0.0)
    for g in grads:
        alone.grad = turned(g)[:, columns]
        adamw.step()
    after = turned(p.detach())
    torch.testing.assert_close(after[:, columns], alone.detach(), rtol=1e-12, atol=1e-12)
    others = [i for i in range(6) if i not in columns.tolist()]
    signs = sum(turned(g).sign() for g in grads)
    torch.testing.assert_close(after[:, others], (turned(w) - 0.02 * signs)[:, others], rtol=1e-12, atol=1e-12)


def test_one_step_by_hand() -> None:
    p = nn.Parameter(torch.zeros(1, 2, dtype=F64))
    p.grad = torch.tensor([[2.0, -4.0]], dtype=F64)
    optimizer = Frugal([p], lr=0.1, density=0.5, projection="columns")
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.tensor([[-0.1, 0.1]], dtype=F64), rtol=0, atol=1e-9)
    assert optimizer.state[p]["exp_avg"].shape == (1, 1)


def test_galore_is_a_corner() -> None:
    p, q = nn.Parameter(randoms(8, 6)), nn.Parameter(randoms(8, 6))
    settings = {"lr": 0.01, "eps": 1e-14, "scale": 0.25, "update_every": 3}
    ours = Frugal([p], density=0.5, projection="svd", state_free="none", on_switch="keep", **settings)
    galore = GaLore([q], rank=3, **settings)
    torch.testing.assert_close(steps(p, ours, range(10)), steps(q, galore, range(10)), rtol=0, atol=1e-9)


def test_the_sign_leaks_back_into_a_subspace() -> None:
    p = nn.Parameter(torch.zeros(8, 6, dtype=F64))
    optimizer = Frugal([p], lr=1.0, density=0.34, projection="svd")
    g = randoms(8, 6)
    p.grad = g
    optimizer.step()
    basis = optimizer.state[p]["basis"]
    low = g @ basis
    outside = (g - low @ basis.T).sign()
    torch.testing.assert_close(-p.detach(), low.sign() @ basis.T + outside, rtol=0, atol=1e-6)  # Adam's first step
    assert (outside @ basis).norm() > 0.1


@pytest.mark.parametrize("projection", ["columns", "randk", "random", "block"])
def test_draws_follow_the_seed_and_a_checkpoint(projection: str) -> None:
    def make(seed: int) -> Frugal:
        params = [nn.Parameter(randoms(4, 6, seed=i)) for i in range(8)]
        return Frugal(params, lr=0.1, density=0.5, projection=projection, update_every=2, seed=seed, state_free="sgd")

    def run(optimizer: Frugal, which: range) -> torch.Tensor:
        params = optimizer.param_groups[0]["params"]
        for step in which:
            for i, p in enumerate(params):
                p.grad = randoms(4, 6, seed=50 + 10 * step + i)
            optimizer.step()
        return torch.stack([p.detach() for p in params])

    ends = [run(make(seed), range(7)) for seed in (0, 0, 1)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])
    optimizer, fresh = make(0), make(0)
    run(optimizer, range(5))
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(optimizer.param_groups[0]["params"], fresh.param_groups[0]["params"], strict=True):
        q.data.copy_(p.data)
    assert torch.equal(run(fresh, range(5, 7)), ends[0])


def test_state_falls_to_the_density() -> None:
    params = [nn.Parameter(randoms(4, 8, seed=i).float()) for i in range(8)]
    for projection, extra in (("block", 2 * 4), ("columns", 8 * 2 * 4), ("rows", 8 * 4), ("randk", 8 * 8 * 4)):
        optimizer = Frugal(params, density=0.25, projection=projection)
        for i, p in enumerate(params):
            p.grad = randoms(4, 8, seed=20 + i).float()
        optimizer.step()
        assert optimizer_state_bytes(optimizer) == 0.25 * 8 * 2 * 32 * 4 + extra


def test_any_rule() -> None:
    p = nn.Parameter(randoms(4, 6))
    optimizer = Frugal([p], lr=0.1, projection="columns", density=0.5, rule=lion_direction())
    steps(p, optimizer, range(2))
    assert optimizer.state[p]["exp_avg"].shape == (4, 3) and "exp_avg_sq" not in optimizer.state[p]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": -0.1}, "Invalid density: -0.1 (must be in [0, 1])"),
        ({"update_every": 0}, "Invalid update_every: 0 (must be a whole number >= 1)"),
        (
            {"projection": "blocks"},
            "unknown projection 'blocks'; did you mean 'block'? "
            "(choose from block, columns, dct, randk, random, rows, svd)",
        ),
        ({"state_free": "adam"}, "unknown state_free 'adam' (choose from none, sgd, sign_sgd)"),
    ],
)
def test_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Frugal([nn.Parameter(torch.ones(2, 2))], **settings)
    assert str(caught.value) == message
