"""Multi-head latent attention: its formula, decoding with the cache, absorbed matrices, rotations."""

from __future__ import annotations

import math

import pytest
import torch

from thalweg.nn import LatentCache, MultiheadLatentAttention, rotary_embedding

F64 = torch.float64


def made(**settings) -> tuple[MultiheadLatentAttention, torch.Tensor]:
    torch.manual_seed(0)
    attention = MultiheadLatentAttention(**{"embed_dim": 24, "num_heads": 3, "kv_rank": 5, "dtype": F64, **settings})
    with torch.no_grad():
        for p in attention.parameters():
            p.normal_()  # norm gains and biases too: a formula that left one out would be found
    return attention, torch.randn(2, 7, attention.embed_dim, dtype=F64)


def turned(x: torch.Tensor, position: int) -> torch.Tensor:
    """Pair i of a vector, (i, i + d/2), as a complex number that turns."""
    half = len(x) // 2
    rates = torch.tensor([10000.0 ** (-2 * i / len(x)) for i in range(half)], dtype=F64)
    z = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half, dtype=F64), position * rates)
    return torch.cat([z.real, z.imag])


@pytest.mark.parametrize("settings", [{}, {"q_rank": 4, "bias": True}, {"rope_dim": 6, "num_heads": 4}])
def test_the_formula_token_by_token(settings: dict) -> None:
    a, x = made(**settings)
    dh, dr = a.head_dim, a.rope_dim
    for tokens, found in zip(x, a(x)[0], strict=True):
        h = tokens @ a.kv_down_proj.weight.T
        latent = h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * a.kv_norm.weight
        q = tokens
        if a.q_rank is not None:
            q = tokens @ a.q_down_proj.weight.T
            q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() * a.q_norm.weight
        q = a.q_proj(q).view(len(tokens), a.num_heads, dh + dr)
        k, v = ((latent @ w.weight.T).view(len(tokens), a.num_heads, dh) for w in (a.k_up_proj, a.v_up_proj))
        k_rope = [turned(a.k_rope_proj(t), i) for i, t in enumerate(tokens)]
        for t in range(len(tokens)):
            heads = []
            for i in range(a.num_heads):
                q_rope = turned(q[t, i, dh:], t)
                scores = torch.stack([q[t, i, :dh] @ k[s, i] + q_rope @ k_rope[s] for s in range(t + 1)])
                heads.append((scores / math.sqrt(dh + dr)).softmax(0) @ v[: t + 1, i])
            torch.testing.assert_close(found[t], a.out_proj(torch.cat(heads)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("absorb", [None, False, True])
@pytest.mark.parametrize("pieces", [[1] * 7, [4, 1, 2], [1, 6], [7]])
def test_decoding_with_the_cache_equals_the_whole(pieces: list[int], absorb: bool | None) -> None:
    a, x = made(q_rank=6)
    whole, full = a(x, absorb=False)
    cache, outputs = None, []
    for piece in x.split(pieces, dim=1):
        y, cache = a(piece, cache, absorb=absorb)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole, rtol=1e-10, atol=1e-11)
    assert cache.tokens == 7 and sum(part[0, 0].numel() for part in cache) == a.kv_rank + a.rope_dim
    for mine, theirs in zip(cache, full, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_single_precision_decodes_to_a_hundred_thousandth() -> None:
    torch.manual_seed(0)
    a = MultiheadLatentAttention(64, 4, kv_rank=32)
    x = torch.randn(2, 20, 64)
    cache, outputs = None, []
    for piece in x.split(1, dim=1):
        y, cache = a(piece, cache)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), a(x)[0], rtol=0, atol=1e-5)


def test_absorbing_has_the_same_gradients() -> None:
    a, x = made()
    grads = []
    for absorb in (False, True):
        a.zero_grad()
        a(x, absorb=absorb)[0].square().sum().backward()
        grads.append([p.grad.clone() for p in a.parameters()])
    assert all(g.abs().max() > 0 for g in grads[0])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)


def test_the_cheaper_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    a, x = made()
    ways = []
    for name in ("_attend", "_attend_latent"):
        inner = getattr(a, name)
        monkeypatch.setattr(a, name, lambda *given, name=name, inner=inner: ways.append(name) or inner(*given))
    _, cache = a(torch.randn(1, 50, 24, dtype=F64))
    a(torch.randn(1, 1, 24, dtype=F64), cache)
    wide, y = made(kv_rank=48)
    assert not wide._absorbing_is_cheaper(50, 50) and wide._absorbing_is_cheaper(1, 51)
    assert ways[1] == "_attend_latent" and y.shape == x.shape


def test_causal_and_old_caches_stay() -> None:
    a, x = made()
    changed = x.clone()
    changed[:, 4:] += 1
    assert torch.equal(a(changed)[0][:, :4], a(x)[0][:, :4]) and not torch.equal(a(changed)[0][:, 4:], a(x)[0][:, 4:])
    _, cache = a(x[:, :3])
    before = LatentCache(*(part.clone() for part in cache))
    a(x[:, 3:], cache)
    assert all(torch.equal(old, now) for old, now in zip(before, cache, strict=True))


def test_rotations_keep_lengths_and_see_distances_only() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 8, dtype=F64)

    def product(m: int, n: int) -> torch.Tensor:
        return rotary_embedding(q, torch.tensor([m])) @ rotary_embedding(k, torch.tensor([n])).T

    torch.testing.assert_close(product(7, 3), product(104, 100), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(product(7, 3), product(7, 4))
    torch.testing.assert_close(rotary_embedding(q, torch.tensor([9]))[0], turned(q[0], 9), rtol=1e-12, atol=0)
    assert rotary_embedding(q, torch.tensor([10**6])).norm().item() == pytest.approx(q.norm().item())


def test_dropout_acts_in_training_alone() -> None:
    a, x = made(dropout=0.5)
    assert not torch.equal(a(x)[0], a(x)[0])
    a.eval()
    assert torch.equal(a(x)[0], a(x)[0])


def test_sizes_types_and_representation() -> None:
    a = MultiheadLatentAttention(32, 4, 8, device="meta", dtype=torch.bfloat16)
    assert a.rope_dim == 4 and all(p.is_meta and p.dtype is torch.bfloat16 for p in a.parameters())
    assert MultiheadLatentAttention(24, 4, 8).rope_dim == 2  # half of 6 isn't even
    assert "kv_rank=8, rope_dim=4, q_rank=None" in repr(a)
    assert not any("bias" in name for name, _ in a.named_parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 5}, r"^embed_dim \(24\) must be a multiple of num_heads \(5\)$"),
        ({"rope_dim": 3}, "^rope_dim must be even and at least 2, not 3$"),
        ({"kv_rank": 0}, "^sizes must be at least 1, not 24, 3, 0 and None$"),
    ],
)
def test_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiheadLatentAttention(**{"embed_dim": 24, "num_heads": 3, "kv_rank": 5, **settings})
