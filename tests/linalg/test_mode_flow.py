import math

import pytest
import torch

from thalweg.linalg.linear_network import learning_time, mode_trajectory
from thalweg.linalg.mode_flow import mode_flow


@pytest.mark.parametrize("depth", [2, 3, 10, math.inf])
def test_growing_modes_are_the_trajectories(depth):
    s = torch.tensor([1.0, 0.6], dtype=torch.float64)
    flow = mode_flow(s, 0.1, depth)
    for k in range(2):
        expected = mode_trajectory(s[k].item(), 0.1, flow.times[::7], depth=depth)
        assert torch.allclose(flow.strengths[::7, k], expected, atol=2e-5)
    assert torch.allclose(flow.excess, (flow.strengths - s).square().sum(1) / s.square().sum())
    assert flow.excess[-1] <= 0.01 < flow.excess[-2]


@pytest.mark.parametrize("depth", [2, 3, 10, 100, math.inf])
def test_unlearning_is_a_power_law(depth):
    """s = 0: du/dt = -L u^(3 - 2/L), so u^-(2 - 2/L) grows by (2 L - 2) t, or 2 t in time multiplied by infinite L."""
    flow = mode_flow(torch.tensor([0.5, 0.0]), 1.0, depth, tolerance=0.3)
    speed = 2.0 if math.isinf(depth) else 2 * depth - 2
    expected = (1 + speed * flow.times) ** (-1 / (2 - 2 / depth))
    assert torch.allclose(flow.strengths[:, 1], expected, atol=1e-4)


def test_shrinking_at_infinite_depth_takes_the_closed_form_time():
    """ln(uf (u0 - s) / (u0 (uf - s))) / s^2 + 1 / (s u0) - 1 / (s uf), from above s as from below."""
    s, u0 = 0.4, 1.0
    flow = mode_flow(torch.tensor([s]), u0, math.inf)
    uf = flow.strengths[-1].item()
    exact = math.log(uf * (u0 - s) / (u0 * (uf - s))) / s**2 + 1 / (s * u0) - 1 / (s * uf)
    assert flow.times[-1].item() == pytest.approx(exact, abs=1e-4)


def test_cost_in_steps_saturates_with_depth():
    cost = {
        depth: (f := mode_flow(torch.ones(1), 0.1, depth)).times[-1].item() * f.curvature
        for depth in (3, 1e4, math.inf)
    }
    assert 1.5 * cost[3] < cost[1e4] and cost[1e4] == pytest.approx(cost[math.inf], rel=0.02)
    assert cost[3] == pytest.approx(3 * learning_time(1.0, 0.1, 0.9, depth=3), abs=0.1)


@pytest.mark.parametrize(
    ("s", "u0", "depth", "options", "message"),
    [
        ([-1.0], 0.1, 2, {}, "s must be at least 0"),
        ([0.0], 0.1, 2, {}, "not all 0"),
        ([1.0], 0.0, 2, {}, "u0 and tolerance positive"),
        ([1.0], 0.1, 1, {}, "depth at least 2"),
        ([1.0], 0.1, 2, {"tolerance": 0.0}, "tolerance positive"),
        ([1.0], 0.1, 2, {"steps": 3}, "after 3 steps"),
    ],
)
def test_wrong_arguments(s, u0, depth, options, message):
    with pytest.raises(ValueError, match=message):
        mode_flow(torch.tensor(s), u0, depth, **options)
