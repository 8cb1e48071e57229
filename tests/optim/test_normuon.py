"""NorMuon: a step by hand, its norms, its symmetries, what it keeps, and another package's version."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.linalg.polar import newton_schulz
from thalweg.optim import Chained, Muon, NorMuon, normalize_neurons

F64 = torch.float64


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def moved(*grads: torch.Tensor, cls=NorMuon, **settings) -> torch.Tensor:
    """How far the last of those gradients moves a matrix."""
    p = nn.Parameter(torch.zeros_like(grads[0]))
    group = {key: settings.pop(key) for key in ("batched", "split") if key in settings}
    optimizer = cls([{"params": [p], **group}], lr=1.0, **settings)
    before = p.detach().clone()
    for g in grads:
        before = p.detach().clone()
        p.grad = g.clone()
        optimizer.step()
    return before - p.detach()


def row_norms(x: torch.Tensor) -> torch.Tensor:
    return x.norm(dim=-1)


def test_one_step_by_hand() -> None:
    g = torch.tensor([[1.0, 2.0], [0.0, 1.0], [0.0, 0.5]], dtype=F64)
    p = nn.Parameter(torch.zeros(3, 2, dtype=F64))
    optimizer = NorMuon([p], lr=1.0)
    p.grad = g
    optimizer.step()
    expected = torch.tensor([[0.5684, 0.4112], [-0.5334, 0.4556], [-0.5334, 0.4556]], dtype=F64)
    torch.testing.assert_close(-p.data / math.sqrt(1.5), expected, rtol=0, atol=5e-5)
    second = optimizer.state[p]["second_momentum"]
    torch.testing.assert_close(second, torch.tensor([0.0149, 0.0176, 0.0044], dtype=F64), rtol=0, atol=5e-5)
    assert set(optimizer.state[p]) == {"momentum_buffer", "second_momentum"}
    step = moved(g) / math.sqrt(1.5)
    torch.testing.assert_close(row_norms(step), torch.full((3,), 0.7015, dtype=F64), rtol=0, atol=5e-5)
    assert step.norm().item() == pytest.approx(1.2151, abs=5e-5)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_three_steps_by_the_equations(shape: tuple[int, int]) -> None:
    grads = [randoms(*shape, seed=s) for s in range(3)]
    m, n = shape
    buffer, second = torch.zeros(shape, dtype=F64), torch.zeros(m, dtype=F64)
    for g in grads:
        buffer = 0.9 * buffer + 0.1 * g
        o = newton_schulz(0.1 * g + 0.9 * buffer)
        second = 0.8 * second + 0.2 * o.square().mean(1)
        hat = o / (second.sqrt() + 1e-10)[:, None]
    expected = hat * o.norm() / hat.norm() * math.sqrt(max(1, m / n))
    settings = {"momentum": 0.9, "beta2": 0.8}
    torch.testing.assert_close(moved(*grads, **settings), expected, rtol=1e-12, atol=1e-14)
    expected = hat * 0.2 * math.sqrt(m * n) / hat.norm()
    torch.testing.assert_close(moved(*grads, **settings, update_scale="match_rms"), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("beta2", [0.0, 0.95])
def test_all_rows_are_equally_long_at_first_or_without_memory(beta2: float) -> None:
    grads = [randoms(6, 3, seed=s) for s in range(3)]
    step = moved(*grads[: 1 if beta2 else 3], beta2=beta2)
    torch.testing.assert_close(row_norms(step), step.norm().expand(6) / math.sqrt(6), rtol=1e-9, atol=0)


def test_steps_are_as_large_as_muons() -> None:
    grads = [randoms(9, 4, seed=s) for s in range(4)]
    assert moved(*grads).norm().item() == pytest.approx(moved(*grads, cls=Muon).norm().item(), rel=1e-12)
    assert moved(*grads, update_scale="match_rms").square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-6)


def test_rows_that_stay_equally_long_are_muons() -> None:
    """The steps of multiples of an orthogonal matrix are orthogonal."""
    q = torch.linalg.qr(randoms(5, 5))[0]
    grads = [c * q for c in (1.0, 3.0, 0.5)]
    torch.testing.assert_close(moved(*grads), moved(*grads, cls=Muon), rtol=1e-9, atol=1e-9)


def test_symmetries() -> None:
    grads = [randoms(6, 4, seed=s) for s in range(3)]
    order, rotation = torch.tensor([3, 1, 5, 0, 4, 2]), torch.linalg.qr(randoms(6, 6, seed=9))[0]
    step = moved(*grads)
    torch.testing.assert_close(moved(*[100 * g for g in grads]), step, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moved(*[g[order] for g in grads]), step[order], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(moved(*[rotation @ g for g in grads]), rotation @ step, atol=1e-2)
    muon = moved(*grads, cls=Muon)
    torch.testing.assert_close(moved(*[rotation @ g for g in grads], cls=Muon), rotation @ muon, rtol=1e-9, atol=1e-9)


def test_columns_as_neurons() -> None:
    grads = [randoms(6, 4, seed=s) for s in range(3)]
    turned = moved(*[g.T.contiguous() for g in grads], neuron_dim=1)
    torch.testing.assert_close(turned, moved(*grads).T, rtol=1e-9, atol=1e-12)


def test_convolutions_experts_and_fused_matrices() -> None:
    grads = [randoms(6, 2, 2, 2, seed=s) for s in range(3)]
    flat = moved(*[g.flatten(1) for g in grads])
    torch.testing.assert_close(moved(*grads).flatten(1), flat, rtol=1e-12, atol=0)
    experts = [randoms(3, 6, 4, seed=s) for s in range(3)]
    each = [moved(*[g[i] for g in experts]) for i in range(3)]
    torch.testing.assert_close(moved(*experts, batched=True), torch.stack(each), rtol=1e-9, atol=1e-12)
    fused = [g.reshape(18, 4) for g in experts]
    torch.testing.assert_close(moved(*fused, split=3), torch.cat(each), rtol=1e-9, atol=1e-12)


def test_a_dead_row_that_wakes_up_is_bounded() -> None:
    """Before the matrix gets its size back, it is sqrt(n / (1 - beta2)) long."""
    state = {"second_momentum": torch.zeros(1, 3, dtype=F64)}
    stack = torch.eye(3, 4, dtype=F64)[None].clone()
    stack[0, 2] = 0
    update = normalize_neurons.update
    for _ in range(50):
        _, scale = update(stack, state)
        assert scale.isfinite().all() and state["second_momentum"][0, 2] == 0
    stack[0, 2, 2] = 1
    _, scale = update(stack, state)
    # Rows 0 and 1 are 1 / sqrt(v) long before, which tells the matrix's factor from the rows'.
    before = 1 / state["second_momentum"].sqrt()
    assert before[0, 2].item() == pytest.approx(math.sqrt(4 / 0.05), rel=1e-9)
    torch.testing.assert_close(scale[0, :, 0], before[0] * math.sqrt(3) / before.norm(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("update_scale", ["preserve_norm", "match_rms"])
def test_zero_gradients_change_nothing(update_scale: str) -> None:
    assert torch.equal(moved(torch.zeros(3, 2), update_scale=update_scale), torch.zeros(3, 2))


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_equals_pytorch_optimizer(train, shape: tuple[int, int]) -> None:
    """It iterates in bfloat16, hence the tolerance."""
    peer = pytest.importorskip("pytorch_optimizer")
    ours, theirs = nn.Parameter(randoms(*shape).float() * 0.1), nn.Parameter(randoms(*shape).float() * 0.1)
    start = ours.detach().clone()
    train(NorMuon([ours], lr=0.02, ns_dtype="float32"), [ours], 0, 10)
    groups = [{"params": [theirs], "use_muon": True}]
    train(peer.NorMuon(groups, lr=0.02, weight_decay=0.0, use_adjusted_lr=False), [theirs], 0, 10)
    torch.testing.assert_close(ours.data, theirs.data, rtol=0, atol=3e-3)
    assert (ours - start).abs().max() > 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_second_moments_stay_in_float32(dtype: torch.dtype) -> None:
    p = nn.Parameter(randoms(4, 3).to(dtype))
    optimizer = NorMuon([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[p]["second_momentum"].dtype is torch.float32
    assert optimizer.state[p]["second_momentum"].numel() == 4


def test_a_chain_of_its_parts() -> None:
    p = nn.Parameter(torch.zeros(4, 2, dtype=F64))
    p.grad = randoms(4, 2)
    Chained([p], normalize_neurons(beta2=0.0), lr=1.0).step()
    torch.testing.assert_close(row_norms(p.data), (p.grad.norm() / math.sqrt(2)).expand(4), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta2": 1.0}, r"^Invalid beta2: 1.0 \(must be in \[0, 1\)\)$"),
        ({"norm_eps": -1.0}, r"^Invalid norm_eps: -1.0 \(must be a number >= 0\)$"),
        ({"update_scale": "rms"}, r"^unknown update_scale 'rms' \(choose from preserve_norm, match_rms\)$"),
        ({"neuron_dim": 2}, r"^Invalid neuron_dim: 2 \(0: a neuron is a row; 1: a column\)$"),
        ({"ns_steps": 0}, r"^Invalid ns_steps: 0 \(must be a whole number from 1 to 99\)$"),
        ({"neuron_dim": 1}, r"^neuron_dim=1 is for matrices stored as \(in, out\), not for a parameter of shape \(4, 3, 2\)$"),
    ],
)  # fmt: skip
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NorMuon([nn.Parameter(randoms(4, 3, 2))], **settings)
