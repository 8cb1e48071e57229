import math

import pytest
import torch

from thalweg.linalg.linear_network import learning_time, mode_trajectory


def euler(s, u0, t, depth, dt=1e-4):
    """The pair of factors a = b (or all ``depth`` of them), stepped: da/dt = a^(depth-1) (s - a^depth)."""
    a = u0 ** (1 / depth)
    for _ in range(round(t / dt)):
        a += dt * a ** (depth - 1) * (s - a**depth)
    return a**depth


def test_closed_form_numbers():
    u = mode_trajectory(3.0, 0.01, torch.tensor([0.5, 1.0, 1.5, 2.0]))
    assert u.tolist() == pytest.approx([0.188842, 1.723002, 2.893241, 2.994499], abs=1e-6)


def test_half_rise_time():
    assert learning_time(3.0, 0.01, 1.5) == pytest.approx(0.950074, abs=1e-6)
    assert mode_trajectory(3.0, 0.01, torch.tensor(0.950074)).item() == pytest.approx(1.5, abs=1e-5)


@pytest.mark.parametrize(("t", "u"), [(0.5, 0.188767), (1.0, 1.722623), (1.5, 2.893256), (2.0, 2.994504)])
def test_stepped_pair_comes_close(t, u):
    assert euler(3.0, 0.01, t, 2) == pytest.approx(u, abs=1e-6)
    assert mode_trajectory(3.0, 0.01, torch.tensor(t, dtype=torch.float64)).item() == pytest.approx(u, abs=5e-4)


@pytest.mark.parametrize(("layers", "value"), [(3, 4.595), (5, 5.042), (10, 5.330), (50, 5.536), (100, 5.561)])
def test_time_grows_little_with_depth(layers, value):
    depth = layers - 1
    assert learning_time(1.0, 0.5, 0.99, depth=depth) * depth == pytest.approx(value, abs=6e-4)


def test_infinite_depth():
    exact = math.log(0.99 / 0.01) - 1 / 0.99 + 2
    assert learning_time(1.0, 0.5, 0.99, depth=math.inf) == pytest.approx(exact, abs=1e-12)
    assert exact == pytest.approx(5.585, abs=5e-4)
    assert learning_time(1.0, 0.5, 0.99, depth=10**6) * 10**6 == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("depth", [3, 4, 10])
def test_trajectory_of_other_depths_against_stepping(depth):
    t = learning_time(2.0, 0.1, 1.5, depth=depth)
    assert mode_trajectory(2.0, 0.1, torch.tensor(t, dtype=torch.float64), depth=depth).item() == pytest.approx(
        1.5, abs=1e-7
    )
    assert euler(2.0, 0.1, t, depth, dt=t / 20000) == pytest.approx(1.5, abs=2e-3)


def test_infinite_depth_trajectory_inverts_its_time():
    t = learning_time(2.0, 0.1, 1.5, depth=math.inf)
    assert mode_trajectory(2.0, 0.1, torch.tensor(t, dtype=torch.float64), depth=math.inf).item() == pytest.approx(
        1.5, abs=1e-7
    )


@pytest.mark.parametrize("depth", [2, 3])
def test_times_in_any_order_and_shape(depth):
    t = torch.tensor([[2.0, 0.0], [1.0, 2.0]])
    u = mode_trajectory(1.0, 0.2, t, depth=depth)
    assert u.shape == t.shape and u.dtype == torch.float64
    assert u[0, 1] == pytest.approx(0.2) and u[0, 0] == u[1, 1]
    assert u[0, 1] < u[1, 0] < u[0, 0] < 1


@pytest.mark.parametrize("depth", [2, 5])
def test_tau_is_a_unit_of_time(depth):
    t = torch.linspace(0, 3, 5)
    slow = mode_trajectory(1.0, 0.1, t * 4, tau=4.0, depth=depth)
    assert torch.allclose(slow, mode_trajectory(1.0, 0.1, t, depth=depth), atol=1e-9)
    assert learning_time(1.0, 0.1, 0.9, tau=4.0, depth=depth) == pytest.approx(
        4 * learning_time(1.0, 0.1, 0.9, depth=depth)
    )


def test_late_times_end_at_the_singular_value():
    assert mode_trajectory(3.0, 0.01, torch.tensor(1e4)).item() == 3.0
    assert mode_trajectory(3.0, 0.01, torch.tensor(100.0), depth=3).item() == pytest.approx(3.0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mode_trajectory(1.0, 0.0, torch.ones(1)), "u0 must lie between 0 and s = 1.0, not 0.0"),
        (lambda: mode_trajectory(1.0, 1.0, torch.ones(1)), "u0 must lie between 0 and s = 1.0, not 1.0"),
        (lambda: mode_trajectory(1.0, 0.1, torch.ones(1), depth=1), "depth counts weight matrices"),
        (lambda: mode_trajectory(1.0, 0.1, -torch.ones(1)), "times must be at least 0"),
        (lambda: learning_time(1.0, 0.5, 0.4), "uf must lie between u0 = 0.5 and s = 1.0, not 0.4"),
        (lambda: learning_time(1.0, 0.5, 1.0), "uf must lie between u0 = 0.5 and s = 1.0, not 1.0"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
