from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.autodiff import Closure, unchanged_buffers


def batch(**options) -> tuple[nn.Module, Closure]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    inputs, targets = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 0])
    return net, Closure(net, nn.functional.cross_entropy, inputs, targets, **options)


def test_called_it_leaves_the_gradient_of_this_batch_alone() -> None:
    net, closure = batch()
    expected = torch.autograd.grad(nn.functional.cross_entropy(net(closure.inputs), closure.targets), net.parameters())
    for p in net.parameters():
        p.grad = torch.full_like(p, 7.0)
    loss = closure()
    assert not loss.requires_grad and loss.shape == ()
    for p, g in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-12, atol=1e-15)


def test_the_pieces() -> None:
    _, closure = batch()
    outputs = closure.outputs()
    assert outputs.shape == (6, 2) and outputs.requires_grad
    torch.testing.assert_close(closure.loss(outputs), closure.loss(), rtol=1e-12, atol=0)
    flipped = closure.loss(outputs, 1 - closure.targets)
    assert flipped.item() == nn.functional.cross_entropy(outputs, 1 - closure.targets).item() != closure.loss().item()


def test_another_backward_is_used() -> None:
    seen = []
    net, closure = batch(backward=lambda loss: (seen.append(loss.item()), (2 * loss).backward()))
    single = batch()[1]
    loss = closure()
    single()
    assert seen == [loss.item()]
    for p, q in zip(net.parameters(), single.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, 2 * q.grad, rtol=1e-12, atol=1e-15)


def test_head_takes_the_first_examples_of_whatever_form() -> None:
    net, closure = batch(num_processes=3)
    part = closure.head(2)
    assert part.inputs.shape == (2, 3) and part.targets.tolist() == [0, 1] and part.num_processes == 3
    assert closure.head(None) is closure
    nested = {"x": torch.arange(5), "pair": (torch.arange(5), [torch.arange(5)]), "scale": 2.0}
    cut = Closure(net, nn.functional.cross_entropy, nested, torch.arange(5)).head(3).inputs
    assert cut["x"].tolist() == cut["pair"][0].tolist() == cut["pair"][1][0].tolist() == [0, 1, 2]
    assert cut["scale"] == 2.0


def test_serves_torchs_own_optimizers() -> None:
    net, closure = batch()
    before = closure().item()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=10)
    optimizer.step(closure)
    assert closure().item() < 0.5 * before


def test_no_process_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^num_processes must be at least 1, not 0$"):
        batch(num_processes=0)


def test_buffers_stay_and_the_backward_pass_works_inside() -> None:
    net, closure = batch()
    closure()
    before = {name: value.clone() for name, value in net.named_buffers()}
    with unchanged_buffers(net) as same:
        assert same is net
        closure()
        assert net[1].num_batches_tracked == 2
    assert all(torch.equal(before[name], value) for name, value in net.named_buffers())
    with pytest.raises(KeyError), unchanged_buffers(net):
        net[1].running_mean.fill_(3.0)
        raise KeyError
    assert all(torch.equal(before[name], value) for name, value in net.named_buffers())
