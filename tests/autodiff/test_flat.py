import pytest
import torch
from torch import nn

from thalweg.autodiff import FlatModel


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4))
    net[3].weight = nn.Parameter(net[3].weight.detach())
    return net.eval()


def test_at_its_own_vector_it_is_the_model():
    net, x = network(), torch.randn(5, 3)
    f = FlatModel(net)
    assert f.size == sum(p.numel() for p in net.parameters()) == len(f.vector)
    assert torch.equal(f(f.vector, x), net(x))
    torch.testing.assert_close(f.vector, nn.utils.parameters_to_vector(net.parameters()).detach())


def test_another_vector_is_another_model_and_the_first_is_untouched():
    net, x = network(), torch.randn(5, 3)
    f = FlatModel(net)
    before = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
    other = torch.randn(f.size)
    out = f(other, x)
    f.vector.zero_()
    assert torch.equal(nn.utils.parameters_to_vector(net.parameters()), before)
    nn.utils.vector_to_parameters(other, net.parameters())
    torch.testing.assert_close(out, net(x))


def test_chosen_parameters_frozen_ones_and_shared_ones():
    net = network()
    net[0].bias.requires_grad_(False)
    assert FlatModel(net).size == sum(p.numel() for p in net.parameters()) - 4
    assert torch.equal(FlatModel(net, params=["0.bias"]).vector, net[0].bias)
    tied = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    tied[1].weight = tied[0].weight
    f, x = FlatModel(tied), torch.randn(2, 3)
    assert f.size == 9
    W = torch.randn(3, 3)
    torch.testing.assert_close(f(W.flatten(), x), x @ W.T @ W.T)


def test_it_computes_in_the_type_asked_for():
    net, x = network(), torch.randn(5, 3)
    f = FlatModel(net, dtype=torch.float64)
    torch.testing.assert_close(f(f.vector, x), net.double()(x.double()))
    mixed = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2).bfloat16())
    parts = FlatModel(mixed).unflatten(FlatModel(mixed).vector)
    assert parts["0.weight"].dtype == torch.float32 and parts["1.weight"].dtype == torch.bfloat16
    words = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 1))
    g = FlatModel(words, dtype=torch.float64)
    assert g(g.vector, torch.tensor([1, 4])).dtype == torch.float64  # whole-number inputs stay


def test_unknown_and_missing_parameters_are_errors():
    with pytest.raises(ValueError, match=r"no parameter '7\.weight'"):
        FlatModel(network(), params=["7.weight"])
    with pytest.raises(ValueError, match="Tanh has no trainable parameter"):
        FlatModel(nn.Tanh())
