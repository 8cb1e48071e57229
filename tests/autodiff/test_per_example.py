import pytest
import torch
import torch.nn.functional as F
from torch import nn

from thalweg.autodiff import FlatModel, per_example_gradient_norms, per_example_gradients


def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    return net, torch.randn(7, 1, 6, 6), torch.randint(4, (7,))


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_rows_are_each_examples_gradient(chunk_size):
    net, X, y = problem()
    rows = per_example_gradients(net, F.cross_entropy, X, y, chunk_size=chunk_size)
    assert not rows.requires_grad and all(p.grad is None for p in net.parameters())
    for i in range(7):
        gradients = torch.autograd.grad(F.cross_entropy(net(X[i : i + 1]), y[i : i + 1]), list(net.parameters()))
        torch.testing.assert_close(rows[i], torch.cat([g.flatten() for g in gradients]), rtol=1e-5, atol=1e-6)
    norms = per_example_gradient_norms(net, F.cross_entropy, X, y, chunk_size=chunk_size)
    torch.testing.assert_close(norms, rows.norm(dim=1))


def test_their_sum_is_the_gradient_of_the_summed_loss():
    net, X, y = problem()
    rows = per_example_gradients(net, F.cross_entropy, X, y)
    F.cross_entropy(net(X), y, reduction="sum").backward()
    torch.testing.assert_close(rows.sum(0), torch.cat([p.grad.flatten() for p in net.parameters()]))


def test_chosen_parameters_and_flat_models():
    net, X, y = problem()
    rows = per_example_gradients(net, F.cross_entropy, X, y)
    last = per_example_gradients(net, F.cross_entropy, X, y, params=["4.weight", "4.bias"])
    torch.testing.assert_close(last, rows[:, -196:])
    torch.testing.assert_close(per_example_gradients(FlatModel(net), F.cross_entropy, X, y), rows)
    with pytest.raises(ValueError, match="params were chosen"):
        per_example_gradients(FlatModel(net), F.cross_entropy, X, y, params=["4.bias"])


def test_layers_that_mix_examples_are_refused():
    net, X, y = problem()
    with pytest.raises((RuntimeError, ValueError)):
        per_example_gradients(net.train(), F.cross_entropy, X, y)


@pytest.mark.parametrize("train", [True, False])
def test_transformers_too(train):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(train)
    net = nn.Sequential(nn.Embedding(5, 8), layer, nn.Flatten(), nn.Linear(32, 3))
    X, y = torch.randint(5, (4, 4)), torch.randint(3, (4,))
    rows = per_example_gradients(net, F.cross_entropy, X, y)
    F.cross_entropy(net(X), y).backward()
    torch.testing.assert_close(
        rows.mean(0), torch.cat([p.grad.flatten() for p in net.parameters()]), rtol=1e-4, atol=1e-6
    )
