"""LARS in its two published forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import Lars


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def randoms(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_one_step_by_hand() -> None:
    p = nn.Parameter(tensor([3, 4]))
    p.grad = tensor([1, -2])
    Lars([p], lr=0.1, trust_coefficient=1e-3, weight_decay=1e-4).step()
    torch.testing.assert_close(p.data, tensor([2.9997763761250296, 4.000447024193133]), rtol=1e-14, atol=0)


def by_hand(nesterov: bool, steps: int) -> list[torch.Tensor]:
    x, buffer, seen = tensor([3, 4]), torch.zeros(1, 2, dtype=torch.float64), []
    for step in range(steps):
        g = tensor([1, -2 + step])
        local = 0.01 * x.norm() / (g.norm() + 0.1 * x.norm() + 1e-8)
        fresh = local * (g + 0.1 * x)
        buffer = 0.9 * buffer + fresh
        x = x - 0.5 * (fresh + 0.9 * buffer if nesterov else buffer)
        seen.append(x)
    return seen


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_follows_the_ratio(nesterov: bool) -> None:
    p = nn.Parameter(tensor([3, 4]))
    optimizer = Lars([p], lr=0.5, weight_decay=0.1, trust_coefficient=0.01, nesterov=nesterov)
    for step, expected in enumerate(by_hand(nesterov, 4)):
        p.grad = tensor([1, -2 + step])
        optimizer.step()
        torch.testing.assert_close(p.data, expected, rtol=1e-14, atol=0)


def test_lamb_papers_form_moves_by_the_share_lr(train) -> None:
    params = [nn.Parameter(scale * randoms(4, 5)) for scale in (1e-3, 1.0, 100.0)]
    optimizer = Lars(params, lr=0.02, weight_decay=0.1, variant="lamb-paper")
    for step in range(4):
        before = [p.detach().clone() for p in params]
        train(optimizer, params, step, step + 1)
        for p, old in zip(params, before, strict=True):
            torch.testing.assert_close((p - old).norm(), 0.02 * old.norm(), rtol=1e-11, atol=0)


def test_lamb_papers_form_by_hand() -> None:
    p, g = nn.Parameter(tensor([3, 4])), tensor([1, -2])
    p.grad = g
    Lars([p], lr=0.1, weight_decay=0.5, variant="lamb-paper").step()
    direction = g + 0.5 * tensor([3, 4])
    torch.testing.assert_close(p.data, tensor([3, 4]) - 0.1 * 5 * direction / direction.norm(), rtol=1e-14, atol=0)


def test_ratio_is_one_where_a_norm_is_zero() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)), nn.Parameter(tensor([3, 4]))
    zero.grad, still.grad = torch.ones_like(zero), torch.zeros_like(still)
    Lars([zero, still], lr=0.1, weight_decay=0.01).step()
    torch.testing.assert_close(zero.data, torch.full_like(zero, -0.1), rtol=1e-15, atol=0)
    torch.testing.assert_close(still.data, 0.999 * tensor([3, 4]), rtol=1e-14, atol=0)


def test_unadapted_tensors_take_momentum_steps(train) -> None:
    model = nn.Linear(3, 2).double()
    p = nn.Parameter(model.bias.detach().clone())
    optimizer, torchs = Lars(model, lr=0.01), torch.optim.SGD([p], lr=0.01, momentum=0.9)
    for _ in range(5):
        model.weight.grad, model.bias.grad = torch.ones_like(model.weight), torch.ones_like(model.bias)
        p.grad = torch.ones_like(p)
        optimizer.step()
        torchs.step()
    torch.testing.assert_close(model.bias.data, p.data, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_pytorch_optimizer(train, nesterov: bool, decay: float) -> None:
    package = pytest.importorskip("pytorch_optimizer")
    start = [randoms(6, 5), 10 * randoms(3, 3)]
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    same = {"lr": 0.5, "weight_decay": decay, "trust_coefficient": 0.01, "nesterov": nesterov}
    train(Lars(ours, eps=0.0, **same), ours, 0, 30)
    train(package.LARS(theirs, **same), theirs, 0, 30)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("nesterov", [False, True])
def test_learning_rate_inside_the_buffer(nesterov: bool) -> None:
    """A step keeps the rate of its time; while the rate stands still both placements agree."""
    p = nn.Parameter(tensor([3, 4]))
    optimizer = Lars([p], lr=0.5, weight_decay=0.1, trust_coefficient=0.01, nesterov=nesterov, lr_in_buffer=True)
    x, buffer = tensor([3, 4]), torch.zeros(1, 2, dtype=torch.float64)
    for step, lr in enumerate((0.5, 0.5, 0.05, 0.2)):
        g = tensor([1, -2 + step])
        fresh = lr * 0.01 * x.norm() / (g.norm() + 0.1 * x.norm() + 1e-8) * (g + 0.1 * x)
        buffer = 0.9 * buffer + fresh
        x = x - (fresh + 0.9 * buffer if nesterov else buffer)
        optimizer.param_groups[0]["lr"] = lr
        p.grad = g
        optimizer.step()
        torch.testing.assert_close(p.data, x, rtol=1e-13, atol=0)
    torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], buffer, rtol=1e-12, atol=0)
    optimizer.param_groups[0]["lr"] = 0.0
    before = p.detach().clone()
    optimizer.step()
    assert torch.equal(p.data, before)


def test_bounds_on_the_norm_in_lamb_papers_form() -> None:
    p, g = nn.Parameter(tensor([3, 4])), tensor([1, -2])
    p.grad = g
    Lars([p], lr=0.1, weight_decay=0.0, variant="lamb-paper", clamp_norm=(0.0, 2.0)).step()
    torch.testing.assert_close(p.data, tensor([3, 4]) - 0.1 * 2 * g / g.norm(), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "lamb-paper", "clip": True}, "clip belongs to variant 'lars2017'"),
        ({"variant": "lamb-paper", "lr_in_buffer": True}, "lr_in_buffer belongs to variant 'lars2017'"),
        ({"clamp_norm": (0.0, 1.0)}, "clamp_norm belongs to variant 'lamb-paper'"),
    ],
)
def test_settings_of_the_other_variant_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Lars([nn.Parameter(torch.ones(2))], **settings)
