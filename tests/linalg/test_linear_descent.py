import itertools
import math

import pytest
import torch
from torch import nn

from thalweg.init import aligned_linear_, orthogonal_
from thalweg.linalg.linear_descent import descend, descent_step_
from thalweg.linalg.linear_network import learning_time, mode_trajectory

F64 = torch.float64


def random_weights(sizes, batch=3, seed=0, std=0.4):
    draws = torch.Generator().manual_seed(seed)
    return [std * torch.randn(batch, m, n, generator=draws, dtype=F64) for n, m in itertools.pairwise(sizes)]


@pytest.mark.parametrize("sizes", [(5, 3), (5, 4, 3), (4, 6, 5, 2), (3, 4, 7)])
def test_a_step_is_autograd_on_white_data(sizes):
    """On data with exactly white inputs: the excess is the loss minus the best one, and the step its gradient."""
    draws = torch.Generator().manual_seed(1)
    x = torch.linalg.qr(torch.randn(20, sizes[0], generator=draws, dtype=F64)).Q * math.sqrt(20)
    y = torch.randn(20, sizes[-1], generator=draws, dtype=F64)
    correlation = y.T @ x / 20
    weights = random_weights(sizes)
    lr = torch.tensor([0.1, 0.2, 0.3], dtype=F64)

    def loss(product):
        return (y - x @ product.T).square().sum(-1).mean() / 2

    expected, excess = [], []
    for net in range(3):
        own = [w[net].clone().requires_grad_() for w in weights]
        product = torch.linalg.multi_dot(own[::-1]) if len(own) > 1 else own[0]
        value = loss(product)
        gradients = torch.autograd.grad(value, own)
        expected.append([(w - lr[net] * g).detach() for w, g in zip(own, gradients, strict=True)])
        excess.append((value - loss(correlation)).item())
    found = descent_step_(weights, correlation, lr)
    assert found.tolist() == pytest.approx(excess, rel=1e-10)
    for net in range(3):
        for w, e in zip(weights, expected[net], strict=True):
            assert torch.allclose(w[net], e, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_aligned_networks_follow_the_theory(depth):
    draws = torch.Generator().manual_seed(2)
    U, _, Vh = torch.linalg.svd(torch.randn(3, 4, generator=draws, dtype=F64), full_matrices=False)
    s = torch.tensor([1.5, 1.0, 0.6], dtype=F64)
    layers = [
        nn.Linear(n, m, bias=False, dtype=F64)
        for n, m in zip([4] + [5] * (depth - 1), [5] * (depth - 1) + [3], strict=True)
    ]
    aligned_linear_(layers, U, Vh.mH, 0.05, generator=draws)
    weights = [layer.weight.detach().clone()[None] for layer in layers]
    for _ in range(400):
        descent_step_(weights, U * s @ Vh, 0.005)
    product = torch.linalg.multi_dot([w[0] for w in reversed(weights)])
    theory = [mode_trajectory(float(k), 0.05, torch.tensor(2.0), depth=depth).item() for k in s]
    assert torch.diagonal(U.T @ product @ Vh.mH).tolist() == pytest.approx(theory, abs=0.02)


def test_stepping_one_mode_gives_the_cards_time():
    """u from 0.5 to 0.99 at s = 1 with two matrices takes 2.2976 units of time; Euler steps of 1e-4 take 2.2974."""
    weights = [torch.full((1, 1, 1), math.sqrt(0.5), dtype=F64) for _ in range(2)]
    steps = 0
    while weights[0].item() * weights[1].item() < 0.99:
        descent_step_(weights, torch.ones(1, 1, dtype=F64), 1e-4)
        steps += 1
    assert steps * 1e-4 == pytest.approx(2.2974, abs=1.5e-4)
    assert learning_time(1.0, 0.5, 0.99) == pytest.approx(2.2976, abs=5e-5)


def test_small_steps_conserve_the_balance_of_neighbours():
    """W1 W1^T - W2^T W2 stays; its drift is of the order of lr."""

    def drift(lr):
        weights = random_weights((4, 3, 2), batch=1)
        start = weights[0] @ weights[0].mT - weights[1].mT @ weights[1]
        for _ in range(round(2 / lr)):
            descent_step_(weights, torch.eye(2, 4, dtype=F64), lr)
        return (weights[0] @ weights[0].mT - weights[1].mT @ weights[1] - start).abs().max().item()

    coarse, fine = drift(0.02), drift(0.002)
    assert coarse < 0.02
    assert fine == pytest.approx(coarse / 10, rel=0.2)


def test_product_of_100_orthogonal_matrices_is_an_isometry_and_of_gaussians_is_singular():
    draws = torch.Generator().manual_seed(0)
    net = orthogonal_(nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(100)]), generator=draws)
    product = torch.eye(64)
    gaussian = torch.eye(64, dtype=F64)
    for layer in net:
        product = layer.weight.detach() @ product
        gaussian = torch.randn(64, 64, generator=draws, dtype=F64) / 8 @ gaussian
    assert (torch.linalg.svdvals(product) - 1).abs().max() < 1e-4
    assert torch.linalg.cond(gaussian) > 1e15


def test_descend_counts_steps_and_drops_what_is_done():
    weights = [torch.zeros(4, 1, 1, dtype=F64)]
    lr = torch.tensor([0.5, 0.001, 1.0, 50.0], dtype=F64)
    done = descend(weights, torch.ones(1, 1, dtype=F64), lr, cap=20)
    assert done.steps.tolist() == [4, math.inf, 1, math.inf]
    assert done.course[:6, 0].tolist()[:5] == pytest.approx([4.0**-k for k in range(5)])
    assert done.course[5:, 0].isnan().all()
    assert done.course[:, 1].tolist() == pytest.approx([0.999 ** (2 * k) for k in range(21)])
    assert done.course[3:, 3].isnan().all() and done.course[2, 3] > 1e4
    assert (weights[0] == 0).all()


def test_a_network_does_not_depend_on_its_batch():
    weights = random_weights((4, 4, 4, 2), batch=4, std=0.5)
    target = random_weights((4, 2), batch=1, seed=5)[0][0]
    lr = torch.tensor([0.3, 0.1, 0.2, 0.05], dtype=F64)
    together = descend(weights, target, lr, cap=100)
    for net in range(4):
        alone = descend([w[net : net + 1] for w in weights], target, lr[net : net + 1], cap=100)
        assert alone.steps.item() == together.steps[net].item()
    assert together.steps.unique().numel() > 1


@pytest.mark.parametrize("wrong", [{"correlation": torch.zeros(1, 1)}, {"tolerance": 0.0}, {"cap": 0}])
def test_wrong_arguments(wrong):
    right = {"correlation": torch.ones(1, 1), "lr": torch.ones(1)}
    with pytest.raises(ValueError, match="must not be zero, and tolerance and cap must be positive"):
        descend([torch.zeros(1, 1, 1)], **{**right, **wrong})
