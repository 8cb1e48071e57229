"""Muon: hand steps, torch's Muon, the choice of parameters, convolutions and experts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.optim import AdamW, Chained, Muon, muon_groups, orthogonalize
from thalweg.optim.muon import shape_scale

F64 = torch.float64


def diagonal(*numbers: float) -> torch.Tensor:
    return torch.diag(torch.tensor(numbers, dtype=F64))


def randoms(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def one_step(weight: torch.Tensor, grad: torch.Tensor, **settings) -> torch.Tensor:
    """The weight after one step."""
    p = nn.Parameter(weight.clone())
    p.grad = grad.clone()
    Muon([{"params": [p], "batched": settings.pop("batched", False)}], **settings).step()
    return p.detach()


def test_one_step_by_hand() -> None:
    after = one_step(diagonal(0, 0), diagonal(3, 4), lr=0.1, weight_decay=0.1)
    torch.testing.assert_close(after, diagonal(-0.0723, -0.1119), rtol=0, atol=5e-5)
    after = one_step(diagonal(1, 1), diagonal(3, 4), lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    torch.testing.assert_close(after, diagonal(0.9696, 0.9583), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((16, 40), {}),
        ((40, 16), {}),
        ((40, 16), {"adjust_lr_fn": "match_rms_adamw"}),
        ((16, 40), {"adjust_lr_fn": "match_rms_adamw", "nesterov": False, "ns_steps": 4}),
        ((16, 16), {"momentum": 0.5, "ns_coefficients": (3.0, -3.2, 1.2)}),
    ],
)
def test_equals_torch(train, shape: tuple[int, int], settings: dict) -> None:
    """Torch iterates in bfloat16 everywhere, hence the tolerance."""
    ours, theirs = (nn.Parameter(randoms(*shape).float() * 0.1) for _ in range(2))
    start = ours.detach().clone()
    settings = {"lr": 0.02, "weight_decay": 0.1, **settings}
    train(Muon([{"params": [ours]}], **settings, ns_dtype="float32"), [ours], 0, 10)
    train(torch.optim.Muon([theirs], **settings), [theirs], 0, 10)
    torch.testing.assert_close(ours.data, theirs.data, rtol=0, atol=3e-3)
    assert (ours - start).abs().max() > 0.02


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_step_does_not_depend_on_the_size_of_gradients(scale: float) -> None:
    w = randoms(6, 9)
    torch.testing.assert_close(
        one_step(w, scale * randoms(6, 9, seed=1)), one_step(w, randoms(6, 9, seed=1)), rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64)])
def test_match_rms_moves_like_adamw(shape: tuple[int, int]) -> None:
    moved = one_step(torch.zeros(shape, dtype=F64), randoms(*shape), lr=1.0, adjust_lr_fn="match_rms_adamw")
    assert 0.13 < moved.square().mean().sqrt().item() < 0.23


def test_shape_scales() -> None:
    assert shape_scale(4, 16, "original") == 1.0 and shape_scale(16, 4, "original") == 2.0
    assert shape_scale(4, 16, "spectral") == 0.5 and shape_scale(16, 4, "spectral") == 2.0
    assert shape_scale(4, 25, "match_rms_adamw") == shape_scale(25, 4, "match_rms_adamw") == 1.0
    assert shape_scale(3, 5, "none") == 1.0


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_a_mean_and_nesterov_looks_ahead(nesterov: bool) -> None:
    p, q = (nn.Parameter(torch.zeros(4, 6, dtype=F64)) for _ in range(2))
    optimizer = Muon([p], lr=0.1, momentum=0.9, nesterov=nesterov)
    buffer = torch.zeros(4, 6, dtype=F64)
    for step in range(3):
        g = randoms(4, 6, seed=step)
        buffer = 0.9 * buffer + 0.1 * g
        q.grad = 0.1 * g + 0.9 * buffer if nesterov else buffer
        p.grad = g
        Chained([q], orthogonalize(), lr=0.1).step()
        optimizer.step()
        torch.testing.assert_close(p.data, q.data, rtol=1e-13, atol=1e-15)
        torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], buffer, rtol=1e-14, atol=0)
    assert list(optimizer.state[p]) == ["momentum_buffer"]


def test_zero_gradients_change_nothing() -> None:
    assert torch.equal(one_step(randoms(3, 5), torch.zeros(3, 5, dtype=F64)), randoms(3, 5))


def test_convolutions_are_flattened_to_outputs_and_the_rest() -> None:
    w, g = randoms(8, 2, 3, 3), randoms(8, 2, 3, 3, seed=1)
    flat = one_step(w.view(8, 18), g.view(8, 18), weight_decay=0.1)
    assert torch.equal(one_step(w, g, weight_decay=0.1).view(8, 18), flat)
    tall = one_step(torch.zeros(36, 1, 3, 3, dtype=F64), randoms(36, 1, 3, 3), lr=1.0)
    assert tall.view(36, 9).square().sum(0).mean().sqrt().item() == pytest.approx(2.0, rel=0.35)  # sqrt(36 / 9)


def test_stacked_experts_equal_each_expert_alone() -> None:
    w, g = randoms(3, 8, 4), randoms(3, 8, 4, seed=1)
    together = one_step(w, g, batched=True, weight_decay=0.1)
    for i in range(3):
        torch.testing.assert_close(together[i], one_step(w[i], g[i], weight_decay=0.1), rtol=1e-13, atol=1e-15)
    assert not torch.allclose(together, one_step(w, g, weight_decay=0.1))


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw", "spectral", "none"])
def test_fused_projections_are_taken_apart(adjust: str) -> None:
    w, g = randoms(12, 4), torch.cat([c * randoms(4, 4, seed=i) for i, c in enumerate((1.0, 10.0, 0.1))])
    p = nn.Parameter(w.clone())
    p.grad = g
    Muon([{"params": [p], "split": 3}], adjust_lr_fn=adjust, weight_decay=0.1).step()
    each = [one_step(a, b, adjust_lr_fn=adjust, weight_decay=0.1) for a, b in zip(w.split(4), g.split(4), strict=True)]
    torch.testing.assert_close(p.data, torch.cat(each), rtol=1e-13, atol=1e-15)
    assert not torch.allclose(p.data, one_step(w, g, adjust_lr_fn=adjust, weight_decay=0.1), atol=1e-4)


def test_fused_projections_by_name() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 2))
    optimizer = Muon(muon_groups(model, split={"in_proj": 3, r"^1\.linear1": 2}))
    found = {g.get("split"): g["param_names"] for g in optimizer.param_groups if g["rule"] == "muon"}
    assert found[3] == ["0.self_attn.in_proj_weight", "1.self_attn.in_proj_weight"]
    assert found[2] == ["1.linear1.weight"] and len(found[None]) == 5
    with pytest.raises(ValueError, match=r"^split: no hidden matrix has 'qkv' in its name$"):
        muon_groups(model, split={"qkv": 3})


def test_matrices_of_equal_shape_equal_each_alone(train) -> None:
    params = [nn.Parameter(randoms(*s)) for s in ((4, 6), (6, 4), (4, 6), (4, 2, 3), (4, 6))]
    alone = [nn.Parameter(p.detach().clone()) for p in params]
    train(Muon(params, lr=0.1), params, 0, 1)
    for p, q in zip(params, alone, strict=True):
        torch.testing.assert_close(p.data, one_step(q.detach(), p.grad, lr=0.1), rtol=1e-13, atol=1e-15)


class Decoder(nn.Module):
    """A small language model in the usual names, its head tied to the embedding or not."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(11, 8)
        self.positions = nn.Parameter(torch.zeros(5, 8))
        self.blocks = nn.ModuleList(nn.TransformerDecoderLayer(8, 2, 16) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.lm_head = nn.Linear(8, 11, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight


@pytest.mark.parametrize("tied", [False, True])
def test_choice_of_parameters(tied: bool) -> None:
    model = Decoder(tied)
    groups = {(g["rule"], g.get("weight_decay")): [n for n, _ in g["params"]] for g in muon_groups(model)}
    hidden = groups["muon", None]
    assert "blocks.0.multihead_attn.in_proj_weight" in hidden and "blocks.1.linear2.weight" in hidden
    assert not any("embed" in n or "head.weight" in n or "norm" in n or "bias" in n for n in hidden)
    assert groups["adamw", None] == ["embed_tokens.weight"] + ([] if tied else ["lm_head.weight"])
    assert all(dict(model.named_parameters())[n].ndim < 2 for n in groups["adamw", 0.0])
    chosen = [n for names in groups.values() for n in names]
    assert sorted(chosen) == sorted(n for n, _ in model.named_parameters())


def test_the_choice_can_be_printed_and_overridden() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = Muon(model)
    assert "rule: muon" in repr(optimizer) and "['0.weight', '1.weight']" in repr(optimizer)
    mine = Muon(
        [
            {"params": [("first", model[0].weight)], "rule": "adamw", "lr": 0.5},
            {"params": [("last", model[2].weight)], "rule": "muon", "adjust_lr_fn": "spectral"},
            {"params": [("bias", model[0].bias)], "rule": "adamw"},
        ],
        lr=0.1,
        weight_decay=0.2,
        rest_lr=0.25,
        rest_weight_decay=0.125,
    )
    found = [(g["rule"], g["lr"], g["weight_decay"], g.get("adjust_lr_fn")) for g in mine.param_groups]
    assert found == [("adamw", 0.5, 0.125, None), ("muon", 0.1, 0.2, "spectral"), ("adamw", 0.25, 0.125, None)]
    assert not {"betas", "bias_correction"} & set(mine.param_groups[1])
    assert not {"momentum", "ns_steps"} & set(mine.param_groups[0])


def test_later_groups_of_the_rest_take_its_settings() -> None:
    optimizer = Muon([nn.Parameter(randoms(3, 3))], lr=0.1, rest_lr=0.25, rest_betas=(0.5, 0.5), rest_eps=1e-3)
    optimizer.add_param_group({"params": [nn.Parameter(randoms(3))], "rule": "adamw"})
    group = optimizer.param_groups[-1]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.25, (0.5, 0.5), 1e-3, 0.0)


def test_the_rest_equals_adamw(train) -> None:
    ours, theirs = nn.Parameter(randoms(7)), nn.Parameter(randoms(7))
    muon = Muon([nn.Parameter(randoms(2, 2)), ours], rest_lr=0.05, rest_betas=(0.8, 0.9), rest_weight_decay=0.3)
    train(muon, [ours], 0, 5)
    train(AdamW([theirs], lr=0.05, betas=(0.8, 0.9), eps=1e-10, weight_decay=0.3), [theirs], 0, 5)
    assert torch.equal(ours, theirs)


def test_a_single_layer_is_not_taken_for_a_head() -> None:
    assert [g["rule"] for g in Muon(nn.Linear(3, 2)).param_groups] == ["muon", "adamw"]


def test_polar_express_and_own_coefficients_reach_the_iteration() -> None:
    results = [
        one_step(diagonal(0, 0), diagonal(3, 4), lr=1.0, ns_coefficients=c)
        for c in ("quintic", "polar_express", (3.4445, -4.7750, 2.0315), [[1.5, -0.5, 0.0]] * 3)
    ]
    assert torch.equal(results[0], results[2])
    assert not torch.allclose(results[0], results[1], atol=1e-2)
    x = torch.tensor([0.6, 0.8], dtype=F64)
    for _ in range(5):  # the last triple is repeated
        x = 1.5 * x - 0.5 * x**3
    torch.testing.assert_close(results[3].diagonal(), -x, rtol=1e-13, atol=0)


def test_dtype_of_the_iteration() -> None:
    exact = one_step(torch.zeros(8, 12, dtype=F64), randoms(8, 12), lr=1.0)
    coarse = one_step(torch.zeros(8, 12, dtype=F64), randoms(8, 12), lr=1.0, ns_dtype=torch.bfloat16)
    assert exact.dtype is coarse.dtype is F64
    assert 1e-4 < (exact - coarse).abs().max().item() < 5e-2
    optimizer = Muon([nn.Parameter(randoms(2, 2))], ns_dtype=torch.float32)
    assert optimizer.param_groups[0]["ns_dtype"] == "float32"  # a plain value, which JSON can hold


def test_direction_has_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(one_step(torch.zeros(20, 30, dtype=F64), randoms(20, 30), lr=1.0))
    assert values.min() > 0.6 and values.max() < 1.2 and math.isclose(values.mean(), 0.9, abs_tol=0.15)
