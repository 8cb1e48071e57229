import pytest
import torch

from thalweg.linalg.linear_network import mode_trajectory
from thalweg.tasks import deep_linear
from thalweg.tasks.deep_linear import aligned_network, expected_loss, half_squared_error, modes

LR = 0.01


def descend(model, steps):
    """Full-batch gradient descent; the whole network's matrix and the loss before every step and at the end."""
    inputs, targets = deep_linear.items(), deep_linear.tree()
    matrices, losses = [], []
    for step in range(steps + 1):
        loss = half_squared_error(model(inputs), targets)
        with torch.no_grad():
            matrices.append(model(torch.eye(8)).T)
        losses.append(loss.item())
        if step < steps:
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter -= LR * gradient
    return torch.stack(matrices), torch.tensor(losses)


def test_inputs_are_white_and_modes_are_the_trees():
    inputs = deep_linear.items()
    assert torch.allclose(inputs.T @ inputs / 8, torch.eye(8), atol=1e-6)
    _, s, _ = modes()
    assert s.tolist() == pytest.approx([1.0, *[0.5**0.5] * 2, *[0.5] * 4])


def test_start_is_aligned_and_balanced():
    torch.manual_seed(0)
    u, _, vt = modes()
    model = aligned_network()
    first, second = (layer.weight.double() for layer in model)
    assert torch.allclose(u.T @ second @ first @ vt.T, 1e-3 * torch.eye(7, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(first @ first.T, second.T @ second, atol=1e-8)
    assert [tuple(layer.weight.shape) for layer in model] == [(8, 8), (7, 8)]


@pytest.mark.parametrize(("depth", "strength", "steps"), [(2, 1e-3, 1500), (3, 0.05, 1500)])
def test_gradient_descent_follows_the_formula(depth, strength, steps):
    torch.manual_seed(0)
    matrices, losses = descend(aligned_network(depth, strength), steps)
    u, s, vt = modes()
    times = LR * torch.arange(steps + 1)
    learnt = torch.einsum("im,tij,mj->tm", u.float(), matrices, vt.float())
    for mode, singular_value in enumerate(s.tolist()):
        theory = mode_trajectory(singular_value, strength, times, depth=depth)
        assert ((learnt[:, mode] - theory).abs() / singular_value).max() < 0.02
    expected = expected_loss(times, depth, strength)
    assert ((losses - expected).abs() / expected[0]).max() < 0.02
    assert losses[-1] < 0.05 * losses[0]


def test_coarse_distinctions_are_learnt_first():
    times = torch.linspace(0, 15, 1501)
    halfway = [
        times[(mode_trajectory(s, deep_linear.START, times) > s / 2).nonzero()[0, 0]].item()
        for s in (1.0, 0.5**0.5, 0.5)
    ]
    assert halfway == sorted(halfway) and halfway[2] / halfway[0] > 1.7


def test_task_trains_on_the_whole_tree_at_once():
    task = deep_linear.task()
    assert task.batch_size == len(task.train) == len(task.valid) == 8
    torch.manual_seed(3)
    start = task.loss(task.model()(task.train.tensors[0]), task.train.tensors[1])
    assert start.item() == pytest.approx(expected_loss(torch.zeros(1)).item(), rel=1e-5)
