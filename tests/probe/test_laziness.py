import pytest
import torch
from torch import nn

from thalweg.probe import LazinessTracker


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()


X = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4)


def test_nothing_has_moved_yet():
    tracker = LazinessTracker(network(), X, hidden="1")
    assert tracker.report() == pytest.approx((0, 0, 1, 1, 1))
    assert LazinessTracker(network(), X).report()[3:] == (None, None)


def test_only_followed_parameters_count_as_weights():
    net = network()
    tracker = LazinessTracker(net, X, params=["0.weight"], hidden="1")
    norm = net[0].weight.norm().item()
    with torch.no_grad():
        net[2].weight *= 2  # scales the kernel of the first layer, which its cosine doesn't see
    found = tracker.report()
    assert found.weight_change == 0 and found.kernel_alignment == pytest.approx(1)
    with torch.no_grad():
        net[0].weight *= -1
    found = tracker.report()
    assert found.weight_change == pytest.approx(2 * norm) and found.relative_weight_change == pytest.approx(2)
    assert found.sign_similarity < 1 and found.kernel_alignment < 1 and found.representation_alignment < 1


def test_a_wide_network_with_a_large_output_scale_is_lazier():
    class Scaled(nn.Module):
        def __init__(self, scale):
            super().__init__()
            torch.manual_seed(0)
            self.net, self.scale = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 1)).double(), scale

        def forward(self, x):
            return self.scale * self.net(x)

    found = []
    for scale in (1.0, 20.0):
        model = Scaled(scale)
        tracker = LazinessTracker(model, X, hidden="net.1")
        with torch.no_grad():
            y = model(X) + torch.tensor([[1.0], [-1], [1], [-1], [1]]).double()
        for _ in range(300):
            loss = (model(X) - y).square().mean()
            grads = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), grads, strict=True):
                    p -= 0.05 / scale**2 * g
        found.append(tracker.report())
    rich, lazy = found
    assert lazy.weight_change < rich.weight_change / 5
    assert rich.kernel_alignment < lazy.kernel_alignment and lazy.kernel_alignment > 0.99
    assert rich.representation_alignment < lazy.representation_alignment


def test_bad_arguments():
    with pytest.raises(ValueError, match="has no module 'middle'"):
        LazinessTracker(network(), X, hidden="middle")
    with pytest.raises(ValueError, match="no parameter 'nothing'"):
        LazinessTracker(network(), X, params=["nothing"])
    dead = network()
    with torch.no_grad():
        dead[2].weight.zero_()
    with pytest.raises(ValueError, match="tangent kernel is zero"):
        LazinessTracker(dead, X, params=["0.weight"])
