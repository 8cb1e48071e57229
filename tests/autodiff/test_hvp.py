import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg.autodiff import Hessian


def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    X, y = torch.randn(10, 3, dtype=torch.float64), torch.randint(3, (10,))
    net(X)
    return net, X, y


def reference(net, X, y, loss_fn=F.cross_entropy):
    """The Hessian by torch.autograd.functional, an independent path."""
    names = [name for name, _ in net.named_parameters()]
    sizes = [p.numel() for p in net.parameters()]
    net.eval()

    def loss(vector):
        shaped = {n: v.view_as(net.get_parameter(n)) for n, v in zip(names, vector.split(sizes), strict=True)}
        return loss_fn(torch.func.functional_call(net, shaped, (X,)), y)

    vector = nn.utils.parameters_to_vector(net.parameters()).detach()
    return torch.autograd.functional.hessian(loss, vector)


def test_products_equal_those_with_the_matrix():
    net, X, y = problem()
    H = reference(net, X, y)
    hessian = Hessian(net, F.cross_entropy, (X, y))
    vectors = torch.randn(5, hessian.size, dtype=torch.float64)
    torch.testing.assert_close(hessian(vectors), vectors @ H)
    torch.testing.assert_close(hessian(vectors[0]), H @ vectors[0])


def test_unequal_batches_and_forms_of_data_do_not_matter():
    net, X, y = problem()
    vector = torch.randn(Hessian(net, F.cross_entropy, (X, y)).size, dtype=torch.float64)
    expected = Hessian(net, F.cross_entropy, (X, y))(vector)
    for data in (DataLoader(TensorDataset(X, y), 4), [(X[:1], y[:1]), (X[1:], y[1:])], TensorDataset(X, y)):
        torch.testing.assert_close(Hessian(net, F.cross_entropy, data)(vector), expected)
    torch.testing.assert_close(Hessian(net, F.cross_entropy, (X, y), batch_size=3)(vector), expected)


def test_the_model_is_left_as_it_was():
    net, X, y = problem()
    net.train()
    F.cross_entropy(net(X), y).backward()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters()]
    hessian = Hessian(net, F.cross_entropy, (X, y))
    out = hessian(torch.ones(hessian.size, dtype=torch.float64))
    assert not out.requires_grad and all(m.training for m in net.modules())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))


def test_it_holds_the_parameters_of_the_moment_it_was_made():
    net, X, y = problem()
    hessian = Hessian(net, F.cross_entropy, (X, y))
    vector = torch.ones(hessian.size, dtype=torch.float64)
    before = hessian(vector)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    torch.testing.assert_close(hessian(vector), before)


def test_float64_on_request_and_under_no_grad():
    net, X, y = problem()
    exact = Hessian(net, F.cross_entropy, (X, y))
    vector = torch.randn(exact.size, dtype=torch.float64)
    expected = exact(vector)
    with torch.no_grad():
        upcast = Hessian(net.float(), F.cross_entropy, (X.float(), y), dtype=torch.float64)(vector)
    torch.testing.assert_close(upcast, expected, rtol=1e-4, atol=1e-6)  # the parameters were rounded once
    assert upcast.dtype == torch.float64


def test_attention_has_a_second_derivative():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
    net = nn.Sequential(nn.Embedding(5, 4), layer, nn.Flatten(), nn.Linear(12, 2)).double()
    X, y = torch.randint(5, (3, 3)), torch.randint(2, (3,))
    hessian = Hessian(net, F.cross_entropy, (X, y))
    vector = torch.randn(hessian.size, dtype=torch.float64)

    def gradient(theta):
        return torch.func.grad(lambda t: F.cross_entropy(hessian.flat(t, X), y))(theta)

    step = 1e-5
    difference = (
        (gradient(hessian.flat.vector + step * vector) - gradient(hessian.flat.vector - step * vector)) / step / 2
    )
    torch.testing.assert_close(hessian(vector), difference, rtol=1e-5, atol=1e-7)


def test_a_loss_that_is_linear_in_the_parameters_has_none():
    hessian = Hessian(nn.Linear(3, 1), lambda out, y: out.mean(), (torch.randn(4, 3), torch.zeros(4)))
    assert hessian(torch.ones(4)).eq(0).all() and hessian(torch.ones(2, 4)).eq(0).all()


def test_bad_arguments():
    net, X, y = problem()
    hessian = Hessian(net, F.cross_entropy, (X, y))
    with pytest.raises(ValueError, match="takes vectors of 39 entries, not"):
        hessian(torch.ones(38))
    with pytest.raises(ValueError, match="the data are empty"):
        Hessian(net, F.cross_entropy, [])(torch.ones(39, dtype=torch.float64))
    nn.init.constant_(net[4].bias, math.inf)
    with pytest.raises(ValueError, match="not finite"):
        Hessian(net, F.cross_entropy, (X, y))(torch.ones(39, dtype=torch.float64))
