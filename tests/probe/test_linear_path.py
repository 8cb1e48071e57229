import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.probe import barrier, linear_path


def networks(*seeds):
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)).double())
    return found


def test_ends_middle_and_batches():
    a, b = networks(0, 1)
    X, y = torch.randn(10, 3, dtype=torch.float64), torch.arange(10) % 2
    before = [p.clone() for net in (a, b) for p in net.parameters()]
    shares, losses = linear_path(a, b, F.cross_entropy, (X, y), points=5)
    assert shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    middle = networks(0)[0]
    with torch.no_grad():
        for p, q in zip(middle.parameters(), b.parameters(), strict=True):
            p.copy_((p + q) / 2)
    for i, net in ((0, a), (2, middle), (4, b)):
        assert losses[i].item() == pytest.approx(F.cross_entropy(net.eval()(X), y).item())
    in_parts = linear_path(a, b, F.cross_entropy, [(X[:3], y[:3]), (X[3:], y[3:])], points=5)[1]
    assert torch.allclose(losses, in_parts)
    assert all(torch.equal(p, q) for p, q in zip(before, [*a.parameters(), *b.parameters()], strict=True))


def test_barrier_is_above_the_line_between_the_ends():
    assert barrier(torch.tensor([3.0, 2.0, 1.0])) == 0
    assert barrier(torch.tensor([3.0, 1.0, 1.0])) == 0
    assert barrier(torch.tensor([0.0, 1.0, 0.5, 0.0])) == 1


def test_what_is_refused():
    data = torch.zeros(2, 3), torch.zeros(2, 1)
    a = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="two points"):
        linear_path(a, a, F.mse_loss, data, points=1)
    with pytest.raises(ValueError, match="same parameters"):
        linear_path(a, nn.Linear(3, 1, bias=False), F.mse_loss, data)
    norms = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    norms[1].running_mean += 1
    with pytest.raises(ValueError, match="equal buffers"):
        linear_path(*norms, F.mse_loss, data)
