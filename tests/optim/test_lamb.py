"""LAMB: hand steps, what the trust ratio promises, and the public package."""

from __future__ import annotations

import importlib
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg.optim import AdamW, Lamb, layerwise_groups

KW = {"rtol": 1e-12, "atol": 0.0}


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("corrected", "expected"),
    [(True, [2.963423635204345, 4.034090607773038]), (False, [2.9642551932, 4.0349615329])],
)
def test_one_step_by_hand(corrected: bool, expected: list[float]) -> None:
    p = nn.Parameter(tensor([3, 4]))
    p.grad = tensor([1, -2])
    Lamb([p], lr=0.01, weight_decay=0.01, bias_correction=corrected).step()
    torch.testing.assert_close(p.data, tensor(expected), rtol=1e-13 if corrected else 1e-10, atol=0)


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_tensor_moves_by_the_share_lr_of_its_norm(train) -> None:
    params = [nn.Parameter(scale * randoms(*s)) for s, scale in (((4, 5), 1e-3), ((7,), 10.0), ((2, 3, 3), 1.0))]
    optimizer = Lamb(params, lr=0.02, weight_decay=0.1)
    for step in range(5):
        before = [p.detach().clone() for p in params]
        train(optimizer, params, step, step + 1)
        for p, old in zip(params, before, strict=True):
            torch.testing.assert_close((p - old).norm(), 0.02 * old.norm(), rtol=1e-10, atol=0)


def run(x: torch.Tensor, scale: float, train, **settings) -> torch.Tensor:
    p = nn.Parameter(x.clone())
    train(Lamb([p], lr=0.05, weight_decay=0.0, eps=0.0, **settings), [p], 0, 10, scale)
    return p.detach()


@pytest.mark.parametrize("scale", [1e-5, 3.0, 1e5])
def test_path_does_not_depend_on_the_size_of_gradients(train, scale: float) -> None:
    torch.testing.assert_close(run(randoms(4, 5), scale, train), run(randoms(4, 5), 1.0, train), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-3, 7.0])
def test_path_scales_with_the_weights(train, scale: float) -> None:
    large = run(scale * randoms(4, 5), 1.0, train)
    torch.testing.assert_close(large, scale * run(randoms(4, 5), 1.0, train), rtol=1e-12, atol=1e-13)


def test_ratio_is_one_where_a_norm_is_zero() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)), nn.Parameter(tensor([3, 4]))
    zero.grad, still.grad = torch.ones_like(zero), torch.zeros_like(still)
    Lamb([zero, still], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(zero.data, torch.full_like(zero, -0.1), rtol=1e-5, atol=0)
    assert torch.equal(still.data, tensor([3, 4]))


def test_clamped_norms() -> None:
    """phi = 2 for a norm of 5 and for a norm of 0.005."""
    for x, clamp in ((tensor([3, 4]), (0.0, 2.0)), (tensor([0.003, 0.004]), (2.0, 10.0))):
        p = nn.Parameter(x.clone())
        p.grad = tensor([1, -2])
        Lamb([p], lr=0.01, weight_decay=0.0, clamp_norm=clamp).step()
        torch.testing.assert_close((p - x).norm().item(), 0.02, **KW)


def test_unadapted_tensors_take_adam_steps(train) -> None:
    """A module's biases, and with them LAMB without its idea, equal torch's Adam."""
    p, q = nn.Parameter(randoms(6)), nn.Parameter(randoms(6))
    train(Lamb([{"params": [p], "adapt": False}], lr=0.01, weight_decay=0.0), [p], 0, 20)
    train(torch.optim.Adam([q], lr=0.01, eps=1e-6), [q], 0, 20)
    torch.testing.assert_close(p.data, q.data, rtol=1e-12, atol=1e-14)

    torch.manual_seed(0)
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    optimizer, adam = Lamb(model, lr=0.01), AdamW(twin, lr=0.01, eps=1e-6, weight_decay=0.0)
    train(optimizer, list(model.parameters()), 0, 5)
    train(adam, list(twin.parameters()), 0, 5)
    torch.testing.assert_close(model.bias.data, twin.bias.data, rtol=1e-6, atol=0)
    assert not torch.allclose(model.weight, twin.weight, rtol=1e-3)


def test_groups_of_a_module() -> None:
    groups = layerwise_groups(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)))
    found = [([n for n, _ in g["params"]], g.get("adapt", True), g.get("weight_decay")) for g in groups]
    assert found == [(["0.weight"], True, None), (["0.bias", "1.weight", "1.bias"], False, 0.0)]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_equals_pytorch_optimizer(train, decay: float) -> None:
    """Its Lamb corrects no means (but, unless told ``adam_debias``, the learning rate), bounds the weights' norm by 10, adds eps to
    the direction's norm, and clips the whole gradient if told ``pre_norm``; by the paper the means are corrected and nothing else
    is done."""
    package = pytest.importorskip("pytorch_optimizer")
    start = [randoms(6, 5), 10 * randoms(9)]  # the second has a norm above 10
    ours, theirs = ([nn.Parameter(t.clone()) for t in start] for _ in range(2))
    variant = {"clamp_norm": (0.0, 10.0), "norm_eps": 1e-6, "bias_correction": False, "max_grad_norm": 1.0}
    train(Lamb(ours, lr=0.01, weight_decay=decay, **variant), ours, 0, 30)
    same = {"lr": 0.01, "weight_decay": decay, "weight_decouple": False, "adam_debias": True}
    train(package.Lamb(theirs, pre_norm=True, max_grad_norm=1.0, **same), theirs, 0, 30)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)  # it adds eps to the norm of the whole gradient


def test_decay_beside_the_direction() -> None:
    """Decoupled: the ratio knows nothing of the decay, which acts on the old weights."""
    p, g = nn.Parameter(tensor([3, 4])), tensor([1, -2])
    p.grad = g
    Lamb([p], lr=0.1, weight_decay=0.5, eps=0.0, decoupled=True).step()
    direction = g.sign()
    expected = 0.95 * tensor([3, 4]) - 0.1 * 5 * direction / direction.norm()
    torch.testing.assert_close(p.data, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("clip", "same"), [(0.1, True), (None, False)])
def test_clipping_by_the_whole_gradients_norm_bounds_outliers(train, clip: float | None, same: bool) -> None:
    """With every gradient clipped, a step a thousand times larger than the others is none."""
    ends = []
    for outlier in (1.0, 1000.0):
        p = nn.Parameter(randoms(4, 5))
        optimizer = Lamb([p], lr=0.05, weight_decay=0.0, max_grad_norm=clip)
        for step in range(6):
            train(optimizer, [p], step, step + 1, outlier if step == 2 else 1.0)
        ends.append(p.detach())
    assert torch.allclose(*ends, rtol=1e-9) == same


def timm_module(name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of timm.optim alone: timm as a whole can't be imported without torchvision."""
    timm = find_spec("timm")
    if timm is None or not timm.submodule_search_locations:
        pytest.skip("timm is not installed: pip install --no-deps timm")
    for bare, path in (("timm", ""), ("timm.optim", "optim")):
        stub = types.ModuleType(bare)
        stub.__path__ = [str(Path(timm.submodule_search_locations[0], path))]
        monkeypatch.setitem(sys.modules, bare, stub)
    return importlib.import_module(f"timm.optim.{name}")


def test_equals_timm(train, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's Lamb leaves groups without decay unadapted unless told, and scales down large gradients of the whole net."""
    package = timm_module("lamb", monkeypatch)
    ours, theirs = ([nn.Parameter(randoms(6, 5))] for _ in range(2))
    train(Lamb(ours, lr=0.01, weight_decay=0.1), ours, 0, 30)
    peer = package.Lamb(theirs, lr=0.01, weight_decay=0.1, always_adapt=True, max_grad_norm=None)
    train(peer, theirs, 0, 30)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-12)
