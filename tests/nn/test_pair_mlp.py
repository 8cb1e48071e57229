import pytest
import torch
from torch.nn import functional as F

from thalweg.nn import PairMLP, centred_squared_loss


@pytest.mark.parametrize(
    ("activation", "formula"),
    [
        ("square", torch.square),
        ("relu", torch.relu),
        ("silu", F.silu),
        ("relu_squared", lambda u: u.relu() ** 2),
    ],
)
def test_is_a_perceptron_of_one_hot_codes(activation, formula):
    model = PairMLP(5, 8, activation, dtype=torch.float64)
    pairs = torch.tensor([[0, 1], [4, 4], [2, 0]])
    codes = torch.cat([F.one_hot(pairs[:, 0], 5), F.one_hot(pairs[:, 1], 5)], 1).double()
    torch.testing.assert_close(model(pairs), formula(codes @ model.first) @ model.second)


def test_starts_as_linear_layers_do():
    model = PairMLP(50, 400)
    for weight, fan_in in ((model.first, 100), (model.second, 400)):
        assert 0.98 < weight.abs().max().item() * fan_in**0.5 <= 1
        assert weight.std().item() * (3 * fan_in) ** 0.5 == pytest.approx(1, abs=0.02)
    first = PairMLP(3, 4)
    first.reset_parameters(torch.Generator().manual_seed(1))
    other = PairMLP(3, 4)
    other.reset_parameters(torch.Generator().manual_seed(1))
    assert torch.equal(first.first, other.first) and torch.equal(first.second, other.second)


def test_loss_is_a_squared_distance():
    outputs, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    codes = F.one_hot(labels, 4).double()
    expected = ((outputs - outputs.mean(1, keepdim=True)) - (codes - 0.25)).square().sum(1).mean()
    torch.testing.assert_close(centred_squared_loss(outputs, labels), expected)
    assert centred_squared_loss(codes, labels).abs() < 1e-12
    assert centred_squared_loss(torch.zeros(6, 4), labels).item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("arguments", "message"), [((5, 8, "cube"), "activation"), ((1, 8), "symbols"), ((5, 0), "hidden")]
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        PairMLP(*arguments)
