import math

import pytest
import torch

from thalweg.tasks.opposing_toy import expected_valley, run_toy


def test_without_a_spike():
    found = run_toy(torch.tensor(12.0), torch.tensor(0.001), 6000)
    assert found.valley[[0, -1]].tolist() == pytest.approx([4, 49.8172], rel=1e-5)
    assert found.weights[-1, 0].item() == pytest.approx(3.52907, rel=1e-5)
    assert found.loss[-1].item() == pytest.approx(0.5) and found.loss.diff().max() <= 1e-12


def test_with_a_spike_that_ends_below_the_edge():
    found = run_toy(torch.tensor([12.0, 8.0]), torch.tensor(0.05), 800)
    values = [course[20, 0].item() for course in (found.loss, found.up, found.down)]
    assert values == pytest.approx([3.8188, 22.608, 122.753], rel=1e-4)
    assert found.weights[20, 2, 0].item() == pytest.approx(0.4283, rel=1e-3)
    assert found.valley[-1].tolist() == pytest.approx([34.6501, 32.848], rel=1e-4)
    assert found.loss[50:, 1].max().item() == pytest.approx(0.5, rel=1e-3)


def test_steps_follow_autograd():
    A, p, kappa, beta, lr = math.sqrt(80), 0.05, 0.5, 3.0, 0.01
    weights = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.0, 0.02, 0.3)]
    c, b, o = weights
    loss = (c * b - beta) ** 2 / 2 + p / 2 * sum((c * o * sign * A - kappa * A) ** 2 / 2 for sign in (1, -1))
    loss.backward()
    found = run_toy(torch.tensor(beta), torch.tensor(lr), 1)
    assert found.loss[0].item() == pytest.approx(loss.item())
    assert found.weights[1].tolist() == pytest.approx([(w - lr * w.grad).item() for w in weights])


def test_small_steps_end_where_the_flow_does():
    found = run_toy(torch.tensor(5.0), torch.tensor(1e-3), 2500)
    assert found.valley[-1].item() == pytest.approx(expected_valley(torch.tensor(5.0)).item(), rel=5e-3)
    c, b, o = found.weights[[0, -1]].unbind(1)
    invariant = c**2 - b**2 - o**2
    assert invariant[0].item() == pytest.approx(invariant[1].item(), rel=0.02)
