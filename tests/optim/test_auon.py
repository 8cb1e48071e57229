"""AuON in both published forms and the hybrid: steps by hand, what the cosine changes, extremes of scale."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.linalg.polar import newton_schulz
from thalweg.optim import SGD, AuON, HybridAuON, Muon, cosh_rms
from thalweg.optim.engine import joining
from thalweg.optim.engine.compiling import can_compile

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def moved(*grads: torch.Tensor, cls=AuON, **settings) -> torch.Tensor:
    """How far the last of those gradients moves a parameter."""
    p = nn.Parameter(torch.zeros_like(grads[0]))
    group = {key: settings.pop(key) for key in ("batched", "split") if key in settings}
    name = {"AuON": "auon", "HybridAuON": "hybrid_auon", "Muon": "muon"}[cls.__name__]
    optimizer = cls([{"params": [p], "rule": name, **group}], lr=1.0, **settings)
    before = p.detach().clone()
    for g in grads:
        before = p.detach().clone()
        p.grad = g.clone()
        optimizer.step()
    return before - p.detach()


def test_one_step_by_hand() -> None:
    g = torch.diag(torch.tensor([3.0, 4.0], dtype=F64))
    assert cosh_rms(g).item() == pytest.approx(1.3539, abs=5e-5)
    assert cosh_rms(g).item() == pytest.approx(
        math.sqrt((math.cosh(0.9) ** 2 + math.cosh(1.2) ** 2 + 2) / 4), rel=1e-14
    )
    settings = {"momentum": 0.0}
    expected = torch.tensor([2.2158, 2.9544], dtype=F64)
    torch.testing.assert_close(moved(g, **settings).diagonal(), expected, rtol=0, atol=5e-5)
    expected = torch.tensor([0.5265, 0.7020], dtype=F64)
    torch.testing.assert_close(moved(g, normalize=True, **settings).diagonal(), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_three_steps_by_the_equations(normalize: bool) -> None:
    grads = [randoms(6, 2, 3, seed=s) for s in range(3)]
    buffer = torch.zeros(6, 2, 3, dtype=F64)
    for g in grads:
        buffer = 0.9 * buffer + 0.1 * g
        u = 0.1 * g + 0.9 * buffer
    gamma = 1.0 if normalize else 1.5
    r = (gamma * u / u.norm()).cosh().square().mean().sqrt()
    expected = u / u.norm() / r if normalize else u / r
    torch.testing.assert_close(moved(*grads, momentum=0.9, normalize=normalize), expected, rtol=1e-12, atol=1e-15)
    tall = [g.reshape(18, 2) for g in grads]
    factor = 3 if normalize else 1
    torch.testing.assert_close(
        moved(*tall, momentum=0.9, normalize=normalize), factor * expected.reshape(18, 2), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize(("size", "excess"), [(8, 1.8e-2), (64, 2.747e-4), (256, 1.7e-5)])
def test_the_cosine_adds_little_on_larger_matrices(size: int, excess: float) -> None:
    found = cosh_rms(randoms(size, size)).item() - 1
    assert found == pytest.approx(excess, rel=0.05)
    if size >= 64:
        assert found == pytest.approx(1.5**2 / (2 * size * size), rel=0.01)
    assert cosh_rms(randoms(size, size).float()).item() - 1 == pytest.approx(found, rel=1e-5)  # no rounding to 1 + 1e-7


def test_one_nonzero_entry_is_damped_most() -> None:
    one_hot = torch.zeros(16)
    one_hot[3] = -7.0
    assert cosh_rms(one_hot, gamma=2.0).item() == pytest.approx(math.sqrt(1 + math.sinh(2) ** 2 / 16), rel=1e-6)
    assert cosh_rms(torch.zeros(3, 4)).item() == 1.0


def test_without_gamma_it_is_momentum(train) -> None:
    ours, theirs = nn.Parameter(randoms(5, 4)), nn.Parameter(randoms(5, 4))
    train(AuON([ours], lr=0.1, gamma=0.0), [ours], 0, 50)
    sgd = SGD([theirs], lr=0.1 * 0.05, momentum=0.95, nesterov=True)
    train(sgd, [theirs], 0, 50)
    torch.testing.assert_close(ours.data, theirs.data, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("kind", ["random", "rank one", "one hot"])
def test_the_normalized_form_stays_within_its_trust_region(kind: str, scale: float, dtype: torch.dtype) -> None:
    g = {"random": randoms(4, 6), "rank one": torch.outer(randoms(4), randoms(6)), "one hot": torch.eye(4, 6)}[kind]
    g = g.to(dtype) if kind != "one hot" else (torch.arange(24.0).view(4, 6) == 5).to(dtype)
    norm = moved(scale * g, normalize=True, eps=1e-40).norm().item()
    assert 0.7 < norm <= 1 + 1e-6
    if scale > 1:  # squares overflow in float32, but the released form doesn't become zero
        ratio = moved(scale * g) / moved(g) / scale
        torch.testing.assert_close(ratio[g != 0], torch.ones_like(ratio[g != 0]), rtol=1e-5, atol=0)


def test_scaled_gradients() -> None:
    grads = [randoms(5, 4, seed=s) for s in range(3)]
    scaled = [1e3 * g for g in grads]
    torch.testing.assert_close(moved(*scaled, normalize=True), moved(*grads, normalize=True), rtol=1e-12, atol=0)
    torch.testing.assert_close(moved(*scaled), 1e3 * moved(*grads), rtol=1e-12, atol=0)


def test_the_condition_number_stays() -> None:
    g = randoms(5, 4)
    for normalize in (False, True):
        assert torch.linalg.cond(moved(g, normalize=normalize)).item() == pytest.approx(torch.linalg.cond(g).item())


@pytest.mark.parametrize("steps", [1, 5])
def test_hybrid_is_newton_schulz_over_the_cosine(steps: int) -> None:
    grads = [randoms(8, 6, seed=s) for s in range(3)]
    muon = moved(*grads, cls=Muon, ns_steps=steps, adjust_lr_fn="none")
    expected = muon / cosh_rms(muon)
    torch.testing.assert_close(moved(*grads, cls=HybridAuON, ns_steps=steps), expected, rtol=1e-12, atol=1e-15)
    assert cosh_rms(muon) > 1.01
    conv = [g.reshape(8, 3, 2) for g in grads]
    torch.testing.assert_close(
        moved(*conv, cls=HybridAuON, ns_steps=steps), expected.reshape(8, 3, 2), rtol=1e-12, atol=1e-15
    )


def test_hybrid_without_steps_is_the_normalized_form() -> None:
    g = randoms(4, 6)
    found = moved(g, cls=HybridAuON, ns_steps=0)
    torch.testing.assert_close(found, moved(g, normalize=True, gamma=1.5), rtol=1e-12, atol=0)
    tall = randoms(6, 4)
    torch.testing.assert_close(
        moved(tall, cls=HybridAuON, ns_steps=0), tall / tall.norm() / cosh_rms(tall), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("cls", "settings"), [(AuON, {}), (AuON, {"normalize": True}), (HybridAuON, {}), (HybridAuON, {"ns_steps": 0})]
)
def test_experts_equal_each_expert_alone(cls, settings: dict) -> None:
    grads = [torch.stack([c * randoms(6, 4, seed=10 * s + i) for i, c in enumerate((1, 5, 0.1))]) for s in range(2)]
    each = torch.stack([moved(*[g[i] for g in grads], cls=cls, **settings) for i in range(3)])
    torch.testing.assert_close(moved(*grads, cls=cls, batched=True, **settings), each, rtol=1e-11, atol=1e-14)


def test_hybrid_splits_fused_matrices() -> None:
    g = torch.cat([randoms(4, 4), 10 * randoms(4, 4, seed=1)])
    parts = torch.cat([newton_schulz(part, 1) for part in g.split(4)])
    torch.testing.assert_close(moved(g, cls=HybridAuON, split=2), parts / cosh_rms(parts), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("cls", [AuON, HybridAuON])
def test_zero_gradients_leave_only_the_decay(cls) -> None:
    p = nn.Parameter(torch.ones(3, 4))
    optimizer = cls([p], lr=0.5, weight_decay=0.1)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(p.data, torch.full((3, 4), 0.95))


@pytest.mark.skipif(not can_compile("cpu"), reason="torch.compile needs a C++ compiler (g++)")
def test_compiled_equals_eager(train, monkeypatch) -> None:
    """Both sums, over a large matrix and over stacked small ones."""
    monkeypatch.setattr(joining, "COMPILED_FROM", 3)
    shapes = ((200, 180), (10, 10), (10, 10), (10, 10))
    eager, fused = ([nn.Parameter(randoms(*s).float()) for s in shapes] for _ in range(2))
    train(AuON(eager, lr=1.0, normalize=True, compile=False), eager, 0, 3)
    train(AuON(fused, lr=1.0, normalize=True, compile=True), fused, 0, 3)
    for p, q, s in zip(eager, fused, shapes, strict=True):
        torch.testing.assert_close(q.data, p.data, rtol=1e-6, atol=1e-7)
        assert (q - randoms(*s)).norm() > 0.1


def test_any_shape() -> None:
    for shape in ((), (5,), (2, 3, 2, 2), (0, 3)):
        g = randoms(*shape)
        torch.testing.assert_close(moved(g, momentum=0.0, gamma=0.0), g, rtol=1e-14, atol=0)
        norm = moved(g, momentum=0.0, normalize=True, gamma=0.0).norm().item()
        assert norm == pytest.approx(1.0 if g.numel() else 0.0)


def test_groups_and_defaults() -> None:
    """As Muon's, by design."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    muon, hybrid, plain = Muon(model), HybridAuON(model), AuON(model)
    for optimizer, name in ((hybrid, "hybrid_auon"), (plain, "auon")):
        assert [g["rule"] for g in optimizer.param_groups] == [name, "adamw", "adamw"]
        for a, b in zip(optimizer.param_groups, muon.param_groups, strict=True):
            assert a["param_names"] == b["param_names"] and a["weight_decay"] == b["weight_decay"]
    assert hybrid.param_groups[0]["lr"] == muon.param_groups[0]["lr"] == 0.02
    assert hybrid.param_groups[1]["lr"] == plain.param_groups[1]["lr"] == muon.param_groups[1]["lr"] == 3e-4
    assert "auon: momentum(" in repr(plain) and "cosh_damping(gamma=1.5" in repr(plain)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (AuON, {"lr": -1.0}, r"^Invalid lr: -1.0 \(must be a number >= 0\)$"),
        (AuON, {"gamma": -1.0}, r"^Invalid gamma: -1.0 \(must be a number >= 0\)$"),
        (AuON, {"momentum": 1.0}, r"^Invalid momentum: 1.0 \(must be in \[0, 1\)\)$"),
        (HybridAuON, {"ns_steps": -1}, r"^Invalid ns_steps: -1 \(must be a whole number from 1 to 99\)$"),
        (AuON, {"split": 2}, r"^AuON doesn't split matrices: give their parts as parameters of their own$"),
        (AuON, {"batched": True}, r"^batched=True is for stacks of matrices \(E, m, n\) here, not shape \(4, 4\)$"),
    ],
)
def test_errors(cls, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moved(torch.zeros(4, 4), cls=cls, **settings) if "lr" not in settings else cls(
            [nn.Parameter(torch.zeros(4, 4))], **settings
        )
