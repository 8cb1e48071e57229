"""Gradient noise: its schedule, its statistics, its stream, and what it is there for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from thalweg.optim import SGD, AdamW, Chained, Frugal, gradient_noise, lion_direction, momentum
from thalweg.optim.gradient_noise import noise_scale

N = 1_000_000


def noises(count: int, steps: int, **settings: object) -> list[Tensor]:
    """The noise that one parameter of ``count`` elements gets at each step: what a step of size 1 without gradient does."""
    p = nn.Parameter(torch.zeros(count, dtype=torch.float64))
    optimizer = Chained([p], gradient_noise(**settings), lr=1.0)
    seen = []
    for _ in range(steps):
        before = p.detach().clone()
        p.grad = torch.zeros_like(p)
        optimizer.step()
        seen.append(before - p.detach())
    return seen


def test_schedule() -> None:
    assert noise_scale(1, eta=0.01)["sigma"] == pytest.approx(0.1)
    assert (noise_scale(2)["sigma"] / noise_scale(1)["sigma"]) ** 2 == pytest.approx(0.68302, abs=1e-5)
    assert noise_scale(1001, eta=0.01)["sigma"] == pytest.approx(0.014958, abs=1e-6)
    assert noise_scale(500, eta=0.3, gamma=0.0)["sigma"] == pytest.approx(0.3**0.5)


def test_statistics() -> None:
    eta = 0.04
    first, second = noises(N, 2, eta=eta)
    for noise, sigma in ((first, noise_scale(1, eta)["sigma"]), (second, noise_scale(2, eta)["sigma"])):
        assert abs(noise.mean().item()) < 4 * sigma / math.sqrt(N)
        assert noise.var().item() == pytest.approx(sigma**2, rel=0.01)
        assert ((noise / sigma) ** 4).mean().item() == pytest.approx(3, abs=0.05)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 4 / math.sqrt(N)


@pytest.mark.parametrize("groups", [1, 2])
def test_two_parameters_get_independent_noise(groups: int) -> None:
    params = [nn.Parameter(torch.zeros(N // 4)) for _ in range(2)]
    for p in params:
        p.grad = torch.zeros_like(p)
    Chained(params if groups == 1 else [{"params": [p]} for p in params], gradient_noise(eta=1.0), lr=1.0).step()
    assert abs(torch.corrcoef(torch.stack([p.detach() for p in params]))[0, 1].item()) < 4 / math.sqrt(N // 4)


def test_two_noises_in_one_chain_are_independent() -> None:
    """Noise on the gradient and noise on the momentum, not one noise twice."""
    once, twice = gradient_noise(eta=1.0, gamma=0.0), gradient_noise(eta=1.0, gamma=0.0)
    p = nn.Parameter(torch.zeros(100_000))
    p.grad = torch.zeros_like(p)
    Chained([p], once >> momentum(momentum=0.0) >> twice, lr=1.0).step()
    assert p.var().item() == pytest.approx(2.0, rel=0.05)  # one noise twice would have 4


def test_noise_and_random_rounding_are_independent() -> None:
    p = nn.Parameter(torch.zeros(100_000, dtype=torch.bfloat16))
    p.grad = torch.zeros_like(p)
    Chained([p], gradient_noise(eta=1.0), lr=1.0, stochastic_rounding=True).step()
    exact = -noises(100_000, 1, eta=1.0)[0].float()
    error = p.float() - exact
    assert abs(torch.corrcoef(torch.stack([error, exact]))[0, 1].item()) < 5 / math.sqrt(100_000)


def test_without_eta_it_is_not_there(train) -> None:
    params = [[nn.Parameter(torch.linspace(-1, 1, 20))] for _ in range(2)]
    train(AdamW(params[0], before=gradient_noise(eta=0.0)), params[0], 0, 5)
    train(AdamW(params[1]), params[1], 0, 5)
    assert torch.equal(params[0][0], params[1][0])


def test_every_rule_gets_the_same_noise_and_seeds_differ() -> None:
    """The direction of SGD is the noise itself; that of momentum-less Lion its sign."""
    noise = noises(1000, 1, eta=1.0)[0]
    p = nn.Parameter(torch.zeros(1000, dtype=torch.float64))
    p.grad = torch.zeros_like(p)
    Chained([p], gradient_noise(eta=1.0) >> lion_direction(), lr=1.0).step()
    assert torch.equal(p.data, -torch.sign(noise))
    assert torch.equal(noise, noises(1000, 1, eta=1.0, seed=0)[0])
    other = noises(1000, 1, eta=1.0, seed=1)[0]
    assert abs(torch.corrcoef(torch.stack([noise, other]))[0, 1].item()) < 4 / math.sqrt(1000)


def test_resumed_runs_go_on_with_the_stream() -> None:
    p, q = (nn.Parameter(torch.zeros(50)) for _ in range(2))
    one, two = (Chained([x], gradient_noise(eta=1.0), lr=1.0) for x in (p, q))
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        one.step()
    q.data.copy_(p.data)
    two.load_state_dict(one.state_dict())
    for x, optimizer in ((p, one), (q, two)):
        x.grad = torch.zeros_like(x)
        optimizer.step()
    assert torch.equal(p, q)


def test_after_clipping_the_norm_is_the_noises() -> None:
    p = nn.Parameter(torch.zeros(10_000))
    p.grad = torch.full_like(p, 100.0)
    torch.nn.utils.clip_grad_norm_([p], 1.0)
    grad = p.grad.clone()
    Chained([p], gradient_noise(eta=0.01), lr=1.0).step()
    assert p.norm().item() == pytest.approx(0.1 * 100, rel=0.05)
    assert torch.equal(p.grad, grad)  # the gradient itself is left alone
    assert abs((-p - grad).mean().item()) < 4 * 0.1 / 100


@pytest.mark.parametrize("noisy", [False, True])
def test_a_net_of_zeros_only_moves_with_noise(noisy: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    for p in model.parameters():
        nn.init.zeros_(p)
    optimizer = SGD(model, lr=0.1, before=gradient_noise(eta=0.01) if noisy else None)
    x, y = torch.randn(32, 5), torch.randint(2, (32,))
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    hidden = [model[i].weight.abs().max().item() for i in (0, 2, 4)]
    assert all(h > 0 for h in hidden) if noisy else hidden == [0, 0, 0]


def test_names_in_the_groups_are_its_own() -> None:
    group = AdamW([nn.Parameter(torch.ones(1))], before=gradient_noise(eta=0.3, gamma=0.5, seed=4)).param_groups[0]
    assert (group["noise_eta"], group["noise_gamma"], group["noise_seed"]) == (0.3, 0.5, 4)


def test_a_seed_beside_the_rules_own(same) -> None:
    """Both draw as they do alone."""
    params = [nn.Parameter(torch.zeros(6, 8)) for _ in range(2)]
    settings = {"lr": 0.1, "density": 0.5, "projection": "columns", "seed": 0}
    noise = gradient_noise(eta=1.0, seed=3)
    noisy = Frugal(params[:1], before=noise, **settings)
    assert noisy.param_groups[0]["noise_seed"] == 3 and noisy.param_groups[0]["seed"] == 0
    params[0].grad = torch.zeros(6, 8)
    noisy.step()
    drawn = nn.Parameter(torch.zeros(6, 8))
    drawn.grad = torch.zeros(6, 8)
    Chained([drawn], noise, lr=1.0).step()
    params[1].grad = -drawn.detach()
    Frugal(params[1:], **settings).step()
    assert same(params[:1], params[1:])


def test_a_state_saved_when_the_seed_had_no_name_of_its_own() -> None:
    params = [nn.Parameter(torch.zeros(3))]
    saved = AdamW(params, before=gradient_noise(seed=4)).state_dict()
    saved["param_groups"][0]["seed"] = saved["param_groups"][0].pop("noise_seed")
    optimizer = AdamW(params, before=gradient_noise(seed=0))
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["noise_seed"] == 4 and "seed" not in optimizer.param_groups[0]
