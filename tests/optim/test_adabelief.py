"""AdaBelief: hand steps, what surprise and eps do to the denominator, the rectified rule, and the public package."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from thalweg.optim import SGD, AdaBelief
from thalweg.optim.adabelief import belief_factors


def scalar(start: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([start], dtype=torch.float64))


def path(optimizer: torch.optim.Optimizer, p: nn.Parameter, gradients) -> list[float]:
    seen = []
    for g in gradients:
        p.grad = torch.full_like(p, g)
        optimizer.step()
        seen.append(p.item())
    return seen


def test_three_steps_by_hand() -> None:
    """A residual against the old mean would make the first step 0.1 instead of 0.1 / 0.9."""
    p = scalar()
    optimizer = AdaBelief([p], lr=0.1)
    found, var = [], []
    for g in (1.0, -1.0, 2.0):
        found += path(optimizer, p, [g])
        var.append(optimizer.state[p]["exp_avg_var"].item())
    assert found == pytest.approx([0.8888888888888957, 0.8944519320408446, 0.8402102627146429], rel=1e-14)
    assert var == pytest.approx([8.1e-4, 1.78929e-3, 5.05998e-3], rel=1e-5)


def test_predictable_gradients_make_longer_and_longer_steps() -> None:
    p = scalar()
    found = path(AdaBelief([p], lr=0.1), p, [1.0] * 30)
    assert found[:3] == pytest.approx([0.8888889, 0.7720884, 0.6495300], abs=5e-8)
    steps = [a - b for a, b in itertools.pairwise(found)]
    assert all(b > a for a, b in itertools.pairwise(steps)) and steps[-1] > 0.2


def test_alternating_gradients_have_a_closed_form() -> None:
    """The mean settles at +-(1 - b1) / (1 + b1), which leaves 2 b1 / (1 + b1) of every gradient."""
    p = scalar()
    optimizer = AdaBelief([p], lr=0.0, betas=(0.9, 0.97))
    path(optimizer, p, [1.0, -1.0] * 350)
    assert optimizer.state[p]["exp_avg_var"].item() == pytest.approx((2 * 0.9 / 1.9) ** 2, rel=1e-6)
    assert pytest.approx(0.8975, abs=1e-4) == (2 * 0.9 / 1.9) ** 2


def test_eps_adds_up_in_the_state() -> None:
    p = scalar()
    optimizer = AdaBelief([p], eps=1e-6, betas=(0.9, 0.99))
    path(optimizer, p, [0.0] * 300)
    assert optimizer.state[p]["exp_avg_var"].item() == pytest.approx(1e-6 * (1 - 0.99**300) / 0.01, rel=1e-12)
    assert p.item() == 1.0


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_rectified_rule_begins_as_momentum(amsgrad) -> None:
    """For b2 = 0.999 the first five steps have no denominator; the sixth has one."""
    p, q = scalar(), scalar()
    gradients = [0.3, -1.2, 0.7, 2.0, 0.1]
    ours = path(AdaBelief([p], lr=0.01, rectify=True, amsgrad=amsgrad), p, gradients)
    mean, expected = 0.0, []
    for t, g in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * g
        with torch.no_grad():
            q -= 0.01 * mean / (1 - 0.9**t)
        expected.append(q.item())
    assert ours == pytest.approx(expected, rel=1e-14)
    assert belief_factors(5, (0.9, 0.999), 1e-16, rectify=True)["root"] == 0.0
    assert belief_factors(6, (0.9, 0.999), 1e-16, rectify=True)["root"] == 1.0
    late, plain = (belief_factors(20_000, (0.9, 0.999), 1e-16, rectify=r) for r in (True, False))
    assert late["scale"] / late["root"] == pytest.approx(plain["scale"] / plain["root"], rel=1e-2)


def test_amsgrad_never_forgets(train) -> None:
    params = [nn.Parameter(torch.ones(20, dtype=torch.float64))]
    optimizer = AdaBelief(params, amsgrad=True, betas=(0.5, 0.5))
    last = torch.zeros(20)
    for step in range(20):
        train(optimizer, params, step, step + 1)
        largest = optimizer.state[params[0]]["max_exp_avg_var"].clone()
        assert (largest >= last).all() and (largest >= optimizer.state[params[0]]["exp_avg_var"]).all()
        last = largest
    assert (last > optimizer.state[params[0]]["exp_avg_var"]).any()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"weight_decay": 0.1, "eps": 1e-8, "betas": (0.8, 0.95)}, {"weight_decay": 0.1, "eps": 1e-8, "betas": (0.8, 0.95)}),
        ({"weight_decay": 0.1, "decoupled": False}, {"weight_decay": 0.1, "weight_decouple": False}),
        ({"amsgrad": True}, {"ams_bound": True}),
        ({"rectify": True}, {"rectify": True}),
        ({"rectify": True, "amsgrad": True}, {"rectify": True, "ams_bound": True}),
    ],
    ids=["plain", "decoupled decay", "coupled decay", "amsgrad", "rectified", "rectified amsgrad"],
)  # fmt: skip
def test_equals_pytorch_optimizer(train, ours, theirs) -> None:
    package = pytest.importorskip("pytorch_optimizer")
    start = [torch.randn(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64) for s in ((6, 5), (9,))]
    a, b = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    train(AdaBelief(a, lr=1e-2, **ours), a, 0, 50)
    train(package.AdaBelief(b, lr=1e-2, **theirs), b, 0, 50)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"weight_decay": 0.1, "eps": 1e-8}, {"weight_decay": 0.1, "eps": 1e-8}),
        ({"weight_decay": 0.1, "decoupled": False}, {"weight_decay": 0.1, "weight_decouple": False}),
        ({"amsgrad": True}, {"amsgrad": True}),
        ({"rectify": True}, {"rectify": True}),
    ],
    ids=["plain", "decoupled decay", "coupled decay", "amsgrad", "rectified"],
)
def test_equals_the_authors_package(train, ours, theirs) -> None:
    package = pytest.importorskip("adabelief_pytorch")
    start = [torch.randn(s, generator=torch.Generator().manual_seed(1), dtype=torch.float64) for s in ((6, 5), (9,))]
    a, b = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    train(AdaBelief(a, lr=1e-2, **ours), a, 0, 50)
    settings = {"eps": 1e-16, "rectify": False, "print_change_log": False, **theirs}
    train(package.AdaBelief(b, lr=1e-2, **settings), b, 0, 50)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_without_a_mean_there_is_no_belief() -> None:
    with pytest.raises(ValueError, match=r"^AdaBelief needs betas\[0\] > 0"):
        AdaBelief([scalar()], betas=(0.0, 0.999))
    with pytest.raises(ValueError, match="the chain decays the weights by itself"):
        AdaBelief([scalar()], weight_decay=0.1, before=AdaBelief([scalar()], decoupled=False).rules[""])


def test_coupled_and_decoupled_decay_differ_as_said() -> None:
    p, q = scalar(2.0), scalar(2.0)
    path(AdaBelief([p], lr=0.1, weight_decay=0.5), p, [0.0])
    assert p.item() == pytest.approx(2.0 * 0.95, rel=1e-14)
    path(AdaBelief([q], lr=0.1, weight_decay=0.5, decoupled=False), q, [0.0])
    assert q.item() == pytest.approx(2.0 - 0.1 / 0.9, rel=1e-8)  # the decay is this rule's whole gradient
    assert SGD([q]).param_groups[0]["weight_decay"] == 0.0
