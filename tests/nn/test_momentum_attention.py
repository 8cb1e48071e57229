import pytest
import torch
from torch.nn import functional as F

from thalweg.nn import MomentumAttention, ema_values, split_icl_update

F64 = torch.float64


def some(momentum=0.4, tokens=6, **options):
    torch.manual_seed(0)
    return MomentumAttention(8, 2, momentum, dtype=F64, **options), torch.randn(3, tokens, 8, dtype=F64)


def test_sums_by_hand_and_by_recurrence():
    assert ema_values(torch.tensor([[1.0], [2.0], [4.0]]), 0.5)[:, 0].tolist() == [0.0, 0.5, 1.25, 2.625]
    torch.manual_seed(0)
    v, m = torch.randn(2, 3, 7, 4, dtype=F64), torch.randn(2, 3, 4, dtype=F64)
    found = ema_values(v, 0.7, start=m)
    for t in range(8):
        assert torch.allclose(found[..., t, :], m)
        if t < 7:
            m = 0.7 * (m + v[..., t, :])
    assert not ema_values(v, 0.0).any()


def test_without_momentum_it_is_plain_attention():
    layer, x = some(0.0)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in layer.qkv_proj(x).chunk(3, -1))
    read = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    assert torch.equal(layer(x)[0], layer.out_proj(read))


def test_momentum_adds_the_sums_of_values():
    layer, x = some(0.4)
    plain, _ = some(0.0)
    values = layer.qkv_proj(x)[..., 16:].unflatten(-1, (2, 4)).transpose(1, 2)
    sums = ema_values(values, 0.4)[:, :, :-1].transpose(1, 2).flatten(2)
    assert torch.allclose(layer(x)[0], plain(x)[0] + sums @ layer.out_proj.weight.T)


def test_a_token_changes_nothing_before_it():
    layer, x = some()
    other = x.clone()
    other[:, 3] += 1
    before, after = layer(x)[0], layer(other)[0]
    assert torch.allclose(before[:, :3], after[:, :3]) and not torch.allclose(before[:, 4], after[:, 4])


@pytest.mark.parametrize("split", [1, 4])
def test_cached_decoding_is_the_full_pass(split):
    layer, x = some()
    whole, end = layer(x)
    out, cache = layer(x[:, :split])
    outs = [out]
    for t in range(split, 6):
        out, cache = layer(x[:, t : t + 1], cache=cache)
        outs.append(out)
    assert torch.allclose(torch.cat(outs, 1), whole)
    assert all(torch.allclose(a, b) for a, b in zip(cache, end, strict=True))


def test_padding_changes_no_real_token():
    layer, x = some()
    bare = layer(x)[0]
    for left, right in ((0, 2), (3, 0)):
        padded = torch.cat([torch.randn(3, left, 8, dtype=F64), x, torch.randn(3, right, 8, dtype=F64)], 1)
        mask = torch.ones(3, 6 + left + right, dtype=torch.bool)
        mask[:, left : left + 6] = False
        out = layer(padded, key_padding_mask=mask)[0]
        assert torch.allclose(out[:, left : left + 6], bare) and out.isfinite().all()


def test_linear_attention_is_weights_and_an_update():
    torch.manual_seed(0)
    demo, text, q = torch.randn(5, 4, dtype=F64), torch.randn(3, 4, dtype=F64), torch.randn(4, dtype=F64)
    wk, wv = torch.randn(2, 4, 4, dtype=F64)
    both = torch.cat([demo, text])
    before, update = split_icl_update(demo, text, wk, wv)
    assert torch.allclose((both @ wv.T).T @ (both @ wk.T @ q), (before + update) @ q)
    assert torch.allclose(split_icl_update(demo[:0], text, wk, wv)[1], torch.zeros(4, 4, dtype=F64))


def test_sgd_has_the_same_form():
    """A linear layer after SGD on single examples: W_0 x + sum_i e_i (x_i . x) with e_i = -lr times the output's gradient."""
    torch.manual_seed(0)
    W0, X, Y = torch.randn(3, 4, dtype=F64), torch.randn(5, 4, dtype=F64), torch.randn(5, 3, dtype=F64)
    W, update = W0.clone(), torch.zeros(3, 4, dtype=F64)
    for x, y in zip(X, Y, strict=True):
        moved = W.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((moved @ x - y).square().sum() / 2, moved)
        update += torch.outer(-0.1 * (W @ x - y), x)
        W = W - 0.1 * gradient
    assert torch.allclose(W, W0 + update)


def test_errors():
    with pytest.raises(ValueError, match=r"\[0, 1\), not be 1.0".replace("1.0", r"1\.0")):
        MomentumAttention(8, 2, 1.0)
    with pytest.raises(ValueError, match="needs causal=True"):
        MomentumAttention(8, 2, 0.1, causal=False)
    with pytest.raises(ValueError, match=r"embed_dim \(9\) must be a multiple"):
        MomentumAttention(9, 2)
    with pytest.raises(ValueError, match=r"momentum must lie in \[0, 1\)"):
        ema_values(torch.ones(2, 2), -0.1)
    layer, x = some()
    with pytest.raises(ValueError, match="a cache needs"):
        layer(x, torch.zeros(3, 6, dtype=torch.bool), layer(x)[1])


def test_both_directions_without_momentum():
    layer, x = some(0.0, causal=False)
    turned = torch.arange(5, -1, -1)
    assert torch.allclose(layer(x)[0][:, turned], layer(x[:, turned])[0])
