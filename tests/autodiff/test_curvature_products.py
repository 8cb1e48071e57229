"""Products with the curvature of a batch's loss, against matrices formed by definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional as F

from thalweg.autodiff import Closure, curvature_product
from thalweg.autodiff.curvature_products import CURVATURES


def problem(loss: str) -> tuple[nn.Module, Closure]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    if loss == "cross_entropy":
        return net, Closure(net, F.cross_entropy, x, torch.arange(6) % 2)
    return net, Closure(net, F.mse_loss, x, torch.randn(6, 2, dtype=torch.float64))


def by_definition(net: nn.Module, closure: Closure, curvature: str) -> torch.Tensor:
    named = dict(net.named_parameters())
    sizes = [p.numel() for p in named.values()]
    start = torch.cat([p.detach().flatten() for p in named.values()])

    def outputs(w: torch.Tensor) -> torch.Tensor:
        parts = {k: v.view_as(p) for (k, p), v in zip(named.items(), w.split(sizes), strict=True)}
        return functional_call(net, parts, (closure.inputs,))

    if curvature == "hessian":
        return hessian(lambda w: closure.loss_fn(outputs(w), closure.targets))(start)
    if curvature == "gauss_newton":
        jacobian = jacrev(outputs)(start).flatten(0, 1)
        inner = hessian(lambda z: closure.loss_fn(z, closure.targets))(outputs(start).detach())
        return jacobian.T @ inner.reshape(12, 12) @ jacobian
    rows = jacrev(
        lambda w: torch.stack(
            [closure.loss_fn(z[None], y[None]) for z, y in zip(outputs(w), closure.targets, strict=True)]
        )
    )
    gradients = rows(start)
    return gradients.T @ gradients / len(gradients)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_products(curvature: str, loss: str) -> None:
    net, closure = problem(loss)
    expected = by_definition(net, closure, curvature)
    product = curvature_product(closure, list(net.parameters()), curvature)
    found = torch.stack([product(row) for row in torch.eye(len(expected), dtype=torch.float64)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in net.parameters()) and not found.requires_grad


def test_a_loss_that_is_linear_has_none() -> None:
    net = nn.Linear(2, 1, bias=False)
    closure = Closure(net, lambda z, y: z.mean(), torch.ones(3, 2), None)
    for curvature in ("hessian", "gauss_newton"):
        assert torch.equal(curvature_product(closure, [net.weight], curvature)(torch.ones(2)), torch.zeros(2))


def test_outputs_of_one_dimension() -> None:
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0))
    closure = Closure(net, lambda z, y: z.mean(), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), None)
    product = curvature_product(closure, [net[0].weight], "fisher")
    assert torch.equal(product(torch.tensor([1.0, 1.0])), torch.tensor([0.5, 2.0]))


def test_errors() -> None:
    net, closure = problem("mse")
    with pytest.raises(ValueError, match="unknown curvature 'newton'"):
        curvature_product(closure, list(net.parameters()), "newton")
    with pytest.raises(ValueError, match="real parameters"):
        curvature_product(closure, [nn.Parameter(torch.ones(1) * 1j)], "hessian")
