"""Mixture of experts: its formula, where it is a plain network, the balancing loss, its matrices under Muon."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.nn import MixtureOfExperts, StackedExperts
from thalweg.optim import Muon, NorMuon

F64 = torch.float64


def made(**settings) -> tuple[MixtureOfExperts, torch.Tensor]:
    torch.manual_seed(0)
    block = MixtureOfExperts(**{"embed_dim": 6, "hidden_dim": 10, "num_experts": 5, "dtype": F64, **settings})
    return block, torch.randn(3, 4, 6, dtype=F64)


def network(experts: StackedExperts, e: int, x: torch.Tensor) -> torch.Tensor:
    return experts.down_proj[e] @ (F.silu(experts.gate_proj[e] @ x) * (experts.up_proj[e] @ x))


@pytest.mark.parametrize("settings", [{}, {"top_k": 1, "num_shared": 0}, {"top_k": 5}, {"num_shared": 3}])
def test_the_formula_token_by_token(settings: dict) -> None:
    block, x = made(**settings)
    y, _ = block(x)
    for token, found in zip(x.view(-1, 6), y.view(-1, 6), strict=True):
        p = (block.router.weight @ token).softmax(0)
        best = p.argsort(descending=True)[: block.top_k]
        expected = sum(p[e] / p[best].sum() * network(block.experts, e, token) for e in best)
        if block.shared is not None:
            expected = expected + sum(network(block.shared, s, token) for s in range(block.shared.num_experts))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_equal_experts_that_all_are_used_are_one_network() -> None:
    block, x = made(top_k=5, num_shared=0)
    with torch.no_grad():
        for stack in block.experts.parameters():
            stack.copy_(stack[:1].expand_as(stack).clone())
    expected = torch.stack([network(block.experts, 0, token) for token in x.view(-1, 6)]).view_as(x)
    torch.testing.assert_close(block(x)[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_balancing_loss(top_k: int) -> None:
    block, x = made(top_k=top_k, aux_loss_weight=0.03)
    with torch.no_grad():
        block.router.weight.zero_()
    assert block(x)[1].item() == pytest.approx(0.03)  # uniform, however ties are picked
    one_way = torch.ones(7, 6, dtype=F64)
    with torch.no_grad():
        block.router.weight[0] = 100.0
    assert block(one_way)[1].item() == pytest.approx(0.03 * 5 / top_k)
    block, x = made(top_k=top_k, aux_loss_weight=0.03)
    p = (x.view(-1, 6) @ block.router.weight.T).softmax(-1)
    share = torch.zeros(5, dtype=F64)
    for row in p:
        share[row.argsort(descending=True)[:top_k]] += 1 / (12 * top_k)
    assert block(x)[1].item() == pytest.approx(0.03 * 5 * (share * p.mean(0)).sum().item())


def test_the_balancing_loss_spreads_the_load() -> None:
    block, _ = made(top_k=1, num_shared=0)
    tokens = torch.randn(200, 6, dtype=F64)
    tokens[:, 0] = 2.0
    with torch.no_grad():
        block.router.weight[:, 0] = torch.tensor([2.0, 0, 0, 0, 0])

    def load() -> torch.Tensor:
        return block.router(tokens).argmax(-1).bincount(minlength=5) / 200

    before = load().max().item()
    optimizer = torch.optim.Adam([block.router.weight], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        block(tokens)[1].backward()
        optimizer.step()
    assert before > 0.9 and load().max().item() < 0.4


def test_gradients_reach_what_was_used() -> None:
    block, x = made(top_k=2)
    y, aux_loss = block(x[:1, :1])
    (y.sum() + aux_loss).backward()
    used = (x[0, 0] @ block.router.weight.T).topk(2).indices.tolist()
    for stack in block.experts.parameters():
        assert sorted(e for e in range(5) if stack.grad[e].abs().max() > 0) == sorted(used)
    assert block.router.weight.grad.abs().max() > 0
    block.zero_grad()
    block(x)[1].backward()  # the shares have no gradient, the probabilities do
    assert block.router.weight.grad.abs().max() > 0 and block.experts.up_proj.grad is None


def test_gradients_by_differences() -> None:
    block, x = made(top_k=2, hidden_dim=3)
    assert torch.autograd.gradcheck(lambda t: block(t)[0], (x.requires_grad_(),), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("cls", [Muon, NorMuon])
def test_matrix_rules_take_each_expert_by_itself(cls) -> None:
    """Given the module, without a word about stacks."""
    block, x = made(num_shared=2)
    model = nn.ModuleList([nn.Linear(6, 6, dtype=F64), block, nn.Linear(6, 2, dtype=F64)])
    twin = copy.deepcopy(model)
    for net in (model, twin):
        y, aux_loss = net[1](net[0](x))
        (net[2](y).square().mean() + aux_loss).backward()
    optimizer = cls(model, lr=0.1)
    stacks = [g["param_names"] for g in optimizer.param_groups if g.get("batched")]
    assert stacks == [[f"1.{part}.{name}_proj" for part in ("experts", "shared") for name in ("gate", "up", "down")]]
    plain = [g["param_names"] for g in optimizer.param_groups if g["rule"] != "adamw" and not g.get("batched")]
    assert plain == [["0.weight", "1.router.weight"]]
    optimizer.step()
    one = nn.Parameter(twin[1].experts.up_proj[3].detach().clone())
    one.grad = twin[1].experts.up_proj.grad[3].clone()
    cls([one], lr=0.1).step()
    torch.testing.assert_close(model[1].experts.up_proj[3].data, one.data, rtol=1e-10, atol=1e-12)


def test_types_sizes_and_no_tokens() -> None:
    block = MixtureOfExperts(8, 4, dtype=torch.bfloat16)
    y, aux_loss = block(torch.randn(5, 8, dtype=torch.bfloat16))
    assert y.dtype is torch.bfloat16 and aux_loss.dtype is torch.float32 and aux_loss.ndim == 0
    with torch.autocast("cpu", torch.bfloat16):
        _, aux_loss = MixtureOfExperts(8, 4)(torch.randn(5, 8))
    assert aux_loss.dtype is torch.float32
    y, aux_loss = block(torch.randn(0, 8, dtype=torch.bfloat16))
    assert y.shape == (0, 8) and aux_loss.item() == 0.0
    meta = MixtureOfExperts(8, 4, device="meta")
    assert all(p.is_meta for p in meta.parameters()) and "top_k=2" in repr(meta) and "8, 8, 4" in repr(meta)
    assert meta.experts.down_proj.shape == (8, 8, 4) and meta.shared.up_proj.shape == (1, 4, 8)
    assert MixtureOfExperts(8, 4, num_shared=0).shared is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": 6}, r"^top_k must be from 1 to num_experts \(5\), not 6$"),
        ({"top_k": 0}, r"^top_k must be from 1 to num_experts \(5\), not 0$"),
        ({"num_shared": -1}, "^num_shared and aux_loss_weight can't be negative: -1, 0.01$"),
        ({"hidden_dim": 0}, "^sizes must be at least 1, not 5, 6 and 0$"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)
