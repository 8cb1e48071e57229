import pytest
import torch
from torch import nn

from thalweg.nn import LinearSelfAttention
from thalweg.probe import label_agreement, order_sensitivity, overlap_cosine, token_overlap, weight_sparsity
from thalweg.tasks.decoder import Decoder

P, Q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.4, 0.1, 0.0, 0.5])


def test_hand_case():
    """The two likeliest are {0, 1} and {3, 0}: 0.2 / sqrt(0.25 * 0.16 + 1)."""
    assert token_overlap(P, Q, 2).item() == 0.5
    assert overlap_cosine(P, Q, 2).item() == pytest.approx(0.2 / 1.04**0.5)


@pytest.mark.parametrize("measure", [token_overlap, overlap_cosine])
def test_ends_and_symmetry(measure):
    torch.manual_seed(0)
    p, q = torch.randn(2, 5, 12).softmax(-1)
    assert torch.allclose(measure(p, p, 4), torch.ones(5))
    assert torch.equal(measure(p, q, 4), measure(q, p, 4))
    apart = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert measure(apart, apart.flip(0), 2).item() == 0
    assert measure(p[0], q, 4).shape == (5,)


def test_labels():
    p, q = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]), torch.tensor([[0.3, 0.4, 0.3], [0.1, 0.5, 0.4]])
    assert label_agreement(p, q, [0, 1]).tolist() == [True, False]
    assert label_agreement(p, q, [0, 2]).tolist() == [False, False]


def test_order_matters_to_a_causal_model_only():
    torch.manual_seed(0)
    layer, tokens = LinearSelfAttention(4, std=0.5), torch.randn(7, 4)
    words, reader = torch.arange(6), Decoder(vocab_size=8, context=8, embed_dim=8, num_heads=2, num_layers=1)
    flat = order_sensitivity(lambda o: layer(torch.cat([tokens[:6][o], tokens[6:]]))[-1:].softmax(-1), 6)
    assert flat.std < 1e-7
    with torch.no_grad():
        read = order_sensitivity(lambda o: reader(words[o][None])[:, -1].softmax(-1), 6, num_orders=4)
    assert read.std > 1e-4 and read.per_query.shape == (1,)


def test_deviation_is_the_populations():
    """Two outcomes, the first example's index decides: with p the share of orders that begin with 0, sqrt(p (1 - p))."""
    seen = []

    def predict(order):
        seen.append(int(order[0] == 0))
        return torch.eye(2)[seen[-1]][None]

    found = order_sensitivity(predict, 2, num_orders=7, generator=torch.Generator().manual_seed(0)).std
    share = sum(seen) / 7
    assert 0 < share < 1 and found == pytest.approx((share * (1 - share)) ** 0.5)


def test_sparsity_skips_vectors():
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0, 1e-4, 0.5], [0.0, 0.0, 0.0, 2e-3]]))
    assert weight_sparsity(model) == {"weight": 5 / 8}


def test_errors():
    with pytest.raises(ValueError, match="between 1 and the 4 outcomes, not be 5"):
        token_overlap(P, Q, 5)
    with pytest.raises(ValueError, match="q must hold probabilities"):
        overlap_cosine(P, 2 * Q, 2)
    with pytest.raises(ValueError, match="two orders are needed, not 3 and 1"):
        order_sensitivity(lambda order: P[None], 3, num_orders=1)
