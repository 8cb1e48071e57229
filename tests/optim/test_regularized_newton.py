"""Regularized Newton steps on networks: the same steps as on a vector, one batch for all trials, and the radius in the state dict."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from thalweg.autodiff import Closure
from thalweg.autodiff.curvature_products import CURVATURES
from thalweg.optim import GradientRegularizedNewton, gradient_regularized_newton
from thalweg.testing import check_optimizer


def problem(*middle: nn.Module) -> tuple[nn.Module, Closure]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(20, 3, dtype=torch.float64)
    return net, Closure(net, F.cross_entropy, x, (x[:, 0] > 0).long())


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_its_steps_are_those_on_a_vector() -> None:
    net, closure = problem()
    named = dict(net.named_parameters())

    def fun(w: torch.Tensor) -> torch.Tensor:
        parts = w.split([p.numel() for p in named.values()])
        given = {k: v.view_as(p) for (k, p), v in zip(named.items(), parts, strict=True)}
        return F.cross_entropy(functional_call(net, given, (closure.inputs,)), closure.targets)

    whole = gradient_regularized_newton(
        fun, lambda w: torch.autograd.functional.hessian(fun, w.detach()), weights(net), max_iter=4
    )
    optimizer = GradientRegularizedNewton(net, "hessian", cg_rtol=1e-12)
    for trial, gamma in zip(whole.history, whole.gamma_history[1:], strict=True):
        assert optimizer.step(closure).item() == pytest.approx(trial.before, rel=1e-9)
        torch.testing.assert_close(weights(net), trial.x, rtol=1e-5, atol=1e-7)
        assert optimizer.gamma == gamma


@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_loss_falls_at_every_step(curvature: str) -> None:
    net, closure = problem()
    optimizer = GradientRegularizedNewton(net, curvature)
    losses = [optimizer.step(closure).item() for _ in range(12)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.3 * losses[0]


def test_float32_comes_to_rest() -> None:
    """Near the minimum, where the loss in float32 no longer tells, the weights stay good and finite."""
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    x, y = torch.randn(40, 3), torch.randn(40, 1)
    closure = Closure(net, F.mse_loss, x, y)
    optimizer = GradientRegularizedNewton(net)
    for _ in range(10):
        optimizer.step(closure)
    design = torch.cat([x, torch.ones(40, 1)], 1)
    best = torch.linalg.lstsq(design, y).solution[:, 0]
    torch.testing.assert_close(weights(net), best, rtol=1e-4, atol=1e-4)


def test_a_share_of_the_step() -> None:
    ends = []
    for lr in (0.0, 0.5, 1.0):
        net, closure = problem()
        GradientRegularizedNewton(net, lr=lr).step(closure)
        ends.append(weights(net))
    assert torch.equal(ends[0], weights(problem()[0]))
    torch.testing.assert_close(ends[1], (ends[0] + ends[2]) / 2, rtol=1e-12, atol=1e-14)


def test_batch_normalization_counts_once_and_dropout_draws_once() -> None:
    net, closure = problem(nn.BatchNorm1d(4), nn.Dropout(0.5))
    masks: list[torch.Tensor] = []
    net[2].register_forward_hook(lambda module, given, output: masks.append(output == 0))
    GradientRegularizedNewton(net).step(closure)
    assert net[1].num_batches_tracked == 1
    assert len(masks) >= 3 and all(torch.equal(mask, masks[0]) for mask in masks)


def test_the_radius_is_in_the_state_dict() -> None:
    net, closure = problem()
    optimizer = GradientRegularizedNewton(net)
    optimizer.step(closure)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    net.zero_grad()
    twin = copy.deepcopy(net)
    fresh = GradientRegularizedNewton(twin, "fisher", gamma=0.1)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert fresh.gamma == optimizer.gamma != 1.0
    optimizer.step(closure)
    fresh.step(Closure(twin, F.cross_entropy, closure.inputs, closure.targets))
    assert torch.equal(weights(net), weights(twin))


def test_what_leaves_the_weights_as_they_are() -> None:
    net, closure = problem()
    before = weights(net)
    flat = Closure(net, lambda z, y: 0 * z.sum(), closure.inputs, closure.targets)
    GradientRegularizedNewton(net).step(flat)  # a gradient of zero
    assert torch.equal(weights(net), before)

    calls: list[int] = []

    def failing(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    with pytest.raises(KeyboardInterrupt):
        GradientRegularizedNewton(net).step(Closure(net, failing, closure.inputs, closure.targets))
    assert torch.equal(weights(net), before)

    values = iter([1.0, 1.0, *[9.0] * 99])

    def never_lower(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(outputs, targets)
        return loss - loss.detach() + next(values)

    optimizer = GradientRegularizedNewton(net, max_backtracks=3)
    optimizer.step(Closure(net, never_lower, closure.inputs, closure.targets))
    assert torch.equal(weights(net), before) and optimizer.gamma == 1 / 16
    with pytest.raises(FloatingPointError, match="is not finite; nothing was changed"):
        optimizer.step(Closure(net, lambda z, y: z.sum() * float("nan"), closure.inputs, closure.targets))
    assert torch.equal(weights(net), before)


def test_errors() -> None:
    net, closure = problem()
    for settings, message in [
        ({"curvature": "newton"}, "unknown curvature 'newton'"),
        ({"gamma": 0.0}, "Invalid gamma: 0.0"),
        ({"cg_rtol": float("nan")}, "Invalid cg_rtol"),
        ({"lr": -1.0}, "Invalid lr: -1.0"),
        ({"max_backtracks": -1}, "Invalid max_backtracks"),
    ]:
        with pytest.raises(ValueError, match=message):
            GradientRegularizedNewton(net, **settings)
    with pytest.raises(ValueError, match="takes one parameter group"):
        GradientRegularizedNewton([{"params": net[0].parameters()}, {"params": net[-1].parameters()}])
    with pytest.raises(ValueError, match="takes real parameters only"):
        GradientRegularizedNewton([nn.Parameter(torch.ones(1) * 1j)])
    optimizer = GradientRegularizedNewton(net)
    for wrong in (None, lambda: closure()):
        with pytest.raises(TypeError, match=r"step with a thalweg\.autodiff\.Closure"):
            optimizer.step(wrong)
    closure.num_processes = 2
    with pytest.raises(RuntimeError, match="DDP and FSDP"):
        optimizer.step(closure)


class Given(nn.Module):
    """Parameters as a model whose outputs are the gradients set by hand, times them."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__()
        self.params = nn.ParameterList(params)

    def forward(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        pull = sum(((p * g).sum() for p, g in zip(self.params, gradients, strict=True)), torch.zeros(()))
        return pull + 5 * sum((p * p).sum() for p in self.params)


class ByHand(GradientRegularizedNewton):
    """Takes gradients set by hand as linear parts of a quadratic, for the public checks."""

    def step(self, closure=None):
        params = self.param_groups[0]["params"]
        given = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in params]
        return super().step(Closure(Given(params), lambda z, y: z, given, None))


@pytest.mark.parametrize(
    "check",
    [
        "goes_down_on_a_quadratic",
        "is_deterministic",
        "resumes_bit_by_bit",
        "schedulers",
        "empty_parameters",
        "bad_settings",
    ],
)
def test_the_public_checks_that_apply(check: str) -> None:
    """The others want groups, sparse or missing gradients, or the step of backward alone; this one needs the loss around it."""
    check_optimizer(ByHand, curvature="hessian", checks=[check])


def test_quantized_weights_are_passed_over() -> None:
    net, closure = problem()
    frozen = nn.Parameter(torch.arange(3), requires_grad=False)
    before = weights(net)
    GradientRegularizedNewton([*net.parameters(), frozen]).step(closure)
    assert not torch.equal(weights(net), before) and torch.equal(frozen, torch.arange(3))
