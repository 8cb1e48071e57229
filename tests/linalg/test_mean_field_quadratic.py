import pytest
import torch

from thalweg.linalg.mean_field_quadratic import Moments, descent_step, population_loss, predict, tangent_kernel
from thalweg.nn import MeanFieldQuadratic
from thalweg.probe import empirical_ntk
from thalweg.tasks.single_index import single_index_quadratic


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(alpha=2.0, eps=0.3, center=True):
    net = MeanFieldQuadratic(6, 9, eps, alpha, center=center, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        net.weight += 0.4 * torch.randn(9, 6, generator=seeded(3), dtype=torch.float64)
    return net


def changes(net):
    return Moments.of(net.weight.detach()).minus(Moments.of(net.start))


def test_outputs_and_tangent_kernel():
    net = network()
    x, other = torch.randn(7, 6, generator=seeded(1)).double(), torch.randn(5, 6, generator=seeded(2)).double()
    now = Moments.of(net.weight.detach())
    torch.testing.assert_close(predict(changes(net), x, 2.0, 0.3), net(x).detach())
    found = tangent_kernel(now, x, other, 2.0, 0.3, 9)
    torch.testing.assert_close(found, empirical_ntk(net, x, other), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_population_loss_against_a_hundred_thousand_points(alpha):
    net = network(alpha)
    x, y, beta = single_index_quadratic(100_000, 6, generator=seeded(4))
    found = population_loss(changes(net), beta, alpha, 0.3)
    assert (net(x) - y).square().mean().item() == pytest.approx(found.total.item(), rel=0.02)
    assert found.total == found.offset + found.linear + found.misalignment
    assert (net(x) - y).mean().square().item() == pytest.approx(found.offset.item(), rel=0.05, abs=1e-3)


def test_a_perfect_network():
    beta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    perfect = Moments(torch.zeros(3).double(), torch.outer(beta, beta) / 0.2)
    assert population_loss(perfect, beta, 2.0, 0.1).total.item() == pytest.approx(0, abs=1e-20)


def test_steps_against_gradient_descent_on_the_weights():
    x, y, _ = single_index_quadratic(30, 6, generator=seeded(4))
    alphas, eps, speed, width = (0.5, 2.0), (0.1, 0.3), (0.2, 0.4), 9
    nets = [
        MeanFieldQuadratic(6, width, e, a, generator=seeded(), dtype=torch.float64)
        for a, e in zip(alphas, eps, strict=True)
    ]
    start = Moments.of(torch.stack([net.start for net in nets]))
    now = start
    batch = [torch.tensor(values, dtype=torch.float64) for values in (alphas, eps, speed)]
    for _ in range(40):
        now, loss = descent_step(now, start, x, y, *batch)
        for net, a, s, expected in zip(nets, alphas, speed, loss, strict=True):
            own = (net(x) - y).square().mean()
            torch.testing.assert_close(own.detach(), expected)
            (gradient,) = torch.autograd.grad(own, [net.weight])
            with torch.no_grad():
                net.weight -= s * width / a**2 * gradient
    torch.testing.assert_close(now.second, torch.stack([Moments.of(net.weight.detach()).second for net in nets]))
    torch.testing.assert_close(now.mean, torch.stack([net.weight.detach().mean(0) for net in nets]))


def test_without_curvature_it_is_least_squares():
    x, y, _ = single_index_quadratic(200, 6, generator=seeded(4))
    start = now = Moments.of(torch.randn(9, 6, generator=seeded(), dtype=torch.float64))
    for _ in range(3000):
        now, _ = descent_step(now, start, x, y, 4.0, 0.0, 2.0)
    expected = torch.linalg.lstsq(x, y.unsqueeze(1)).solution.squeeze(1)
    torch.testing.assert_close(4.0 * (now.mean - start.mean), expected)
