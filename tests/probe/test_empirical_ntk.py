import pytest
import torch
from torch import nn

from thalweg.probe import empirical_ntk


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)).double()


def gradients(model, x, params):
    """Row by row with plain autograd."""
    model.eval()
    chosen = [p for name, p in model.named_parameters() if name in params]
    outputs = [output for one in x for output in model(one[None]).flatten()]
    rows = [torch.autograd.grad(output, chosen, retain_graph=True) for output in outputs]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


@pytest.mark.parametrize("params", [None, ["0.weight"]])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_against_gradients_one_by_one(params, chunk_size):
    net = network()
    x, other = torch.randn(5, 3).double(), torch.randn(4, 3).double()
    used = params or [name for name, _ in net.named_parameters()]
    J, L = gradients(net, x, used), gradients(net, other, used)
    torch.testing.assert_close(empirical_ntk(net, x, params=params, chunk_size=chunk_size), J @ J.T)
    torch.testing.assert_close(empirical_ntk(net, x, other, params=params, chunk_size=chunk_size), J @ L.T)


def test_the_model_is_left_alone():
    net = network()
    kernel = empirical_ntk(net, torch.randn(3, 3).double())
    assert net.training and not kernel.requires_grad and all(p.grad is None for p in net.parameters())
    assert torch.equal(kernel, kernel.T) and torch.linalg.eigvalsh(kernel).min() > -1e-9


def test_a_small_step_moves_outputs_by_the_kernel():
    net = network().eval()
    x, error, lr = torch.randn(4, 3).double(), torch.randn(8).double(), 1e-6
    kernel, before = empirical_ntk(net, x), net(x).flatten()
    grads = torch.autograd.grad(before @ error, list(net.parameters()))
    with torch.no_grad():
        for p, g in zip(net.parameters(), grads, strict=True):
            p -= lr * g
        torch.testing.assert_close((net(x).flatten() - before) / lr, -kernel @ error, rtol=1e-3, atol=1e-4)
