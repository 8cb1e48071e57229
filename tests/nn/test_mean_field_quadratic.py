import pytest
import torch

from thalweg.nn import MeanFieldQuadratic


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_by_hand():
    net = MeanFieldQuadratic(2, 2, eps=0.5, alpha=3.0, center=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    # units 1 and 3: (1 + 0.25 + 3 + 0.25 * 9) / 2 * 3
    assert net(torch.ones(1, 2)).item() == pytest.approx(9.75)


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_first_step_does_not_depend_on_the_scale(eps):
    x, y = torch.randn(8, 3, generator=seeded(1)).double(), torch.randn(8, generator=seeded(2)).double()
    moved = []
    for alpha in (1.0, 8.0, 1e6):
        net = MeanFieldQuadratic(3, 20, eps, alpha, generator=seeded(), dtype=torch.float64)
        (gradient,) = torch.autograd.grad((net(x) - y).square().mean(), [net.weight])
        with torch.no_grad():
            net.weight -= 20 / alpha**2 * gradient
            moved.append(net(x))
    if eps == 0:
        torch.testing.assert_close(moved[0], moved[1])
    error = [(m - moved[2]).norm().item() for m in moved[:2]]
    assert error[1] == pytest.approx(error[0] / 8, rel=0.01) or eps == 0  # of the order of eps / alpha


def test_state_and_arguments():
    net = MeanFieldQuadratic(3, 4, generator=seeded())
    other = MeanFieldQuadratic(3, 4)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.start, net.start) and "alpha=1.0, center=True" in repr(net)
    assert [name for name, _ in net.named_parameters()] == ["weight"]
    with pytest.raises(ValueError, match="must be positive"):
        MeanFieldQuadratic(3, 4, alpha=0.0)
