import math

import pytest
import torch
from torch.nn import functional as F

from thalweg.solve import first_step_direction, frozen_head_gd
from thalweg.tasks.xor_clusters import xor_clusters


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def test_is_gradient_descent_on_all_weights():
    """Against autograd on the weights themselves, which knows nothing of Gram matrices."""
    data = xor_clusters(12, 200, 5.0, 0.2, dtype=torch.float64, generator=draws())
    path = frozen_head_gd(data.X, data.y, 30, lr=0.2, steps=10, init_std=0.1, keep=[0, 4, 10], generator=draws(1))
    W, recorded = path.start.clone().requires_grad_(), []
    for _ in range(11):
        f = (data.X @ W.T).relu() @ path.head
        recorded.append(f.detach())
        (gradient,) = torch.autograd.grad(F.softplus(-data.y * f).mean(), W)
        if len(recorded) in (1, 5, 11):
            at = {1: 0, 5: 1, 11: 2}[len(recorded)]
            torch.testing.assert_close(path.start + path.coefficients[at] @ data.X, W.detach())
        W = (W - 0.2 * gradient).detach().requires_grad_()
    torch.testing.assert_close(path.outputs, torch.stack(recorded))
    points = torch.randn(5, 200, dtype=torch.float64, generator=draws(2))
    final = path.start + path.coefficients[-1] @ data.X
    torch.testing.assert_close(path.on(points)[-1], (points @ final.T).relu() @ path.head)
    torch.testing.assert_close(path.projections(points)[-1], points @ final.T)


def test_a_step_by_hand():
    start, one = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    path = frozen_head_gd(start.clone(), one, 1, lr=1.0, steps=1, start=start, head=one)
    assert path.outputs[0].item() == 1
    assert (path.start + path.coefficients[-1] @ path.X).tolist()[0] == pytest.approx(
        [1 + 1 / (1 + math.e), 0], abs=1e-12
    )


def test_neurons_that_are_active_nowhere_never_move():
    X = torch.rand(6, 4, dtype=torch.float64, generator=draws()) + 0.1
    start = torch.cat([-torch.ones(1, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)])
    path = frozen_head_gd(X, X.new_tensor([1, -1, 1, -1, 1, -1]), 3, lr=0.1, steps=5, start=start, generator=draws())
    assert (path.coefficients[-1][0] == 0).all() and (path.coefficients[-1][1:] != 0).all()
    assert path.head.abs().tolist() == pytest.approx([1 / math.sqrt(3)] * 3)


def test_first_step_is_the_closed_form_for_many_neurons():
    """The closed form never enters the descent; its error falls with the number of neurons."""
    data = xor_clusters(20, 1000, 5.0, 0.1, dtype=torch.float64, generator=draws())
    fresh = xor_clusters(300, 1000, 5.0, dtype=torch.float64, generator=draws(1)).X
    expected = fresh @ first_step_direction(data.X, data.y, 1e-3)
    off = []
    for width in (64, 6400):
        path = frozen_head_gd(data.X, data.y, width, lr=1e-3, steps=1, generator=draws(2))
        found = path.on(fresh)[0]
        off.append(((found - expected).square().mean() / expected.square().mean()).sqrt().item())
    assert off[1] < 0.05 and off[1] < off[0] / 4


def test_a_smaller_start_changes_nothing():
    data, accuracies = xor_clusters(100, 4000, 14.0, 0.15, generator=draws()), []
    fresh = xor_clusters(400, 4000, 14.0, generator=draws(1))
    for std in (1e-9, 1e-8):
        path = frozen_head_gd(
            data.X, data.y, 200, lr=1 / 4000, steps=5, init_std=std, keep=[1, 2, 5], generator=draws(2)
        )
        accuracies.append((path.on(fresh.X).sign() == fresh.clean).double().mean(1))
    assert (accuracies[0] - accuracies[1]).abs().max() < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": torch.tensor([1.0, 0.0])}, "labels"),
        ({"y": torch.ones(3)}, "points"),
        ({"width": 0}, "positive"),
        ({"lr": -1.0}, "positive"),
        ({"init_std": 0.0}, "positive"),
        ({"keep": [3]}, "between 0 and 2"),
        ({"head": torch.ones(3)}, "head"),
    ],
)
def test_arguments_that_dont_fit(changes, message):
    arguments = {"X": torch.eye(2), "y": torch.tensor([1.0, -1.0]), "width": 4, "lr": 1.0, "steps": 2}
    with pytest.raises(ValueError, match=message):
        frozen_head_gd(**(arguments | changes))
