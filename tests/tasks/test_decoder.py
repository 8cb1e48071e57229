import pytest
import torch
from torch import nn

from thalweg.tasks.decoder import CausalSelfAttention, Decoder


def test_size_of_the_shared_language_model():
    torch.manual_seed(0)
    model = Decoder()
    blocks = 2 * (12 * 64 * 64 + 4 * 64)
    assert sum(p.numel() for p in model.parameters()) == 2 * 256 * 64 + 64 * 64 + blocks + 2 * 64


def test_sizes_are_arguments():
    model = Decoder(vocab_size=17, context=8, embed_dim=24, num_heads=3, num_layers=5)
    assert len(model.blocks) == 5
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 17)


def test_a_position_sees_nothing_behind_it():
    torch.manual_seed(0)
    model = Decoder(context=12, embed_dim=16, num_heads=2)
    tokens = torch.randint(256, (3, 12))
    changed = tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 256
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :7], after[:, :7], atol=1e-6)
    assert not torch.allclose(before[:, 7:], after[:, 7:], atol=1e-3)


def test_every_earlier_position_counts():
    torch.manual_seed(0)
    model = Decoder(context=6, embed_dim=16, num_heads=2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)
    tokens = torch.randint(256, (1, 6))
    for position in range(6):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % 256
        assert (model(tokens)[0, -1] - model(changed)[0, -1]).abs().max() > 1e-9


def test_attention_equals_the_formula():
    torch.manual_seed(0)
    attention = CausalSelfAttention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = attention.qkv.weight.split(12)
    mask = torch.full((5, 5), -torch.inf, dtype=torch.float64).triu(1)
    heads = []
    for h in range(3):
        rows = slice(4 * h, 4 * h + 4)
        scores = (x @ q[rows].T) @ (x @ k[rows].T).transpose(1, 2) / 4**0.5 + mask
        heads.append(scores.softmax(-1) @ (x @ v[rows].T))
    expected = torch.cat(heads, -1) @ attention.out.weight.T
    assert torch.allclose(attention(x), expected, atol=1e-12)


def test_start_and_biases():
    torch.manual_seed(0)
    model = Decoder()
    matrices = torch.cat([p.flatten() for p in model.parameters() if p.ndim == 2])
    assert abs(matrices.mean()) < 2e-4 and abs(matrices.std() - 0.02) < 2e-4
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Linear))


def test_bytes_and_integers_are_the_same():
    torch.manual_seed(0)
    model = Decoder()
    tokens = torch.randint(256, (2, 64))
    assert torch.equal(model(tokens), model(tokens.to(torch.uint8)))


def test_wrong_sizes():
    with pytest.raises(ValueError, match=r"embed_dim \(10\) must be a multiple of num_heads \(4\)"):
        Decoder(embed_dim=10)
    with pytest.raises(ValueError, match="65 tokens are more than the context of 64"):
        Decoder()(torch.zeros(1, 65, dtype=torch.int64))
