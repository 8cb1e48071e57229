"""Trust ratios: their variants, and looking at them without a step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thalweg.optim import AdamW, Chained, Lamb, Lars, gradient_noise, momentum, orthogonalize, trust_ratio, trust_ratios


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("settings", "ratio"),
    [
        ({}, 5 / 10),
        ({"clamp_norm": (0.0, 2.0)}, 2 / 10),
        ({"clamp_norm": (20.0, 30.0)}, 20 / 10),
        ({"clamp_ratio": (0.0, 0.25)}, 0.25),
        ({"clamp_ratio": (0.75, 9.0)}, 0.75),
        ({"norm_eps": 2.5}, 5 / 12.5),
        ({"norm_eps": 2.5, "clamp_norm": (0.0, 2.0), "clamp_ratio": (0.2, 1.0)}, 0.2),
        ({"adapt": False}, 1.0),
    ],
)
def test_variants(settings: dict, ratio: float) -> None:
    p = nn.Parameter(tensor([3, 4]))
    p.grad = tensor([6, -8])
    optimizer = Chained([p], trust_ratio(**settings), lr=0.1)
    assert trust_ratios(optimizer) == {"0": pytest.approx(ratio, rel=1e-15)}
    optimizer.step()
    torch.testing.assert_close(p.data, tensor([3, 4]) - 0.1 * ratio * tensor([6, -8]), rtol=1e-15, atol=0)


def test_a_zero_norm_gives_one_before_any_bound() -> None:
    """The raw norms decide, so that clamp_norm's lower bound lets only tensors of a small norm grow, not those of none."""
    p = nn.Parameter(tensor([0, 0]))
    p.grad = tensor([6, -8])
    assert trust_ratios(Chained([p], trust_ratio(clamp_norm=(2.0, 9.0)), lr=0.1)) == {"0": 1.0}


@pytest.mark.parametrize(("clip", "lr"), [(False, 3.0), (True, 3.0), (True, 1e-4)])
def test_ratio_of_lars(clip: bool, lr: float) -> None:
    """With ``clip`` the layer's own rate is at most lr: a ratio of rate / lr, and never above 1."""
    p = nn.Parameter(tensor([3, 4]))
    p.grad = tensor([6, -8])
    optimizer = Lars([p], lr=lr, trust_coefficient=0.01, weight_decay=0.5, clip=clip, eps=0.0)
    own = 0.01 * 5 / (10 + 0.5 * 5)
    ratio = min(own / lr, 1.0) if clip else own
    assert trust_ratios(optimizer) == {"0": pytest.approx(ratio, rel=1e-14)}
    optimizer.step()
    torch.testing.assert_close(p.data, tensor([3, 4]) - lr * ratio * tensor([7.5, -6]), rtol=1e-14, atol=0)


@pytest.mark.parametrize("cls", [Lamb, Lars])
def test_looking_says_what_the_step_uses_and_changes_nothing(cls, train) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    optimizer = cls(model, lr=0.1)
    params = list(model.parameters())
    train(optimizer, params, 0, 3)
    params[2].grad = None
    before, state = copy.deepcopy(params), copy.deepcopy(optimizer.state_dict())
    ratios = trust_ratios(optimizer)
    assert list(ratios) == ["0.weight", "0.bias", "1.bias"]
    assert ratios["0.bias"] == ratios["1.bias"] == 1.0 and 0 < ratios["0.weight"] != 1.0
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    assert str(optimizer.state_dict()) == str(state)
    optimizer.step()
    moved = (params[0].detach() - before[0]).norm() / 0.1
    if cls is Lamb:
        torch.testing.assert_close(moved, before[0].norm(), rtol=1e-12, atol=0)
        twin = Lamb([nn.Parameter(before[0].clone())], lr=0.1, clamp_ratio=(1.0, 1.0))
        twin.load_state_dict({**twin.state_dict(), "state": {0: state["state"][0]}})
        twin.param_groups[0]["params"][0].grad = params[0].grad
        twin.step()
        plain = (twin.param_groups[0]["params"][0].detach() - before[0]).norm() / 0.1
        assert ratios["0.weight"] == pytest.approx((moved / plain).item(), rel=1e-12)


def test_looking_through_noise_and_matrix_rules() -> None:
    """The copy draws the same noise, and works on matrices as the step would."""
    params = [nn.Parameter(tensor([3, 4], [1, 2])), nn.Parameter(tensor([3, 4], [1, 7]))]
    for p in params:
        p.grad = tensor([1, 0], [0, 1])
    chain = gradient_noise(eta=0.5) >> momentum() >> orthogonalize(ns_dtype="float64", ns_steps=9) >> trust_ratio()
    optimizer = Chained(params, chain, lr=0.1)
    before = [p.detach().clone() for p in params]
    ratios = trust_ratios(optimizer)
    twin = Chained([nn.Parameter(p.clone()) for p in before], Chained([*params], chain).rules[""], lr=0.1)
    for p, q in zip(params, twin.param_groups[0]["params"], strict=True):
        q.grad = p.grad
    twin.param_groups[0]["clamp_ratio"] = (1.0, 1.0)
    optimizer.step()
    twin.step()
    for place, old in enumerate(before):
        moved = (params[place].detach() - old).norm()
        plain = (twin.param_groups[0]["params"][place].detach() - old).norm()
        assert ratios[str(place)] == pytest.approx((moved / plain).item(), rel=1e-12)


def test_optimizers_without_a_ratio_say_so() -> None:
    with pytest.raises(ValueError, match=r"^AdamW has no trust_ratio or lars_ratio in its chain$"):
        trust_ratios(AdamW([nn.Parameter(torch.ones(2))]))
