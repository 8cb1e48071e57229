"""Target-based surrogates: closed forms, the bound, one query a step, and the conventions of torch.optim as far as they apply."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.autodiff import Closure
from thalweg.optim import SGD, TargetSurrogate
from thalweg.optim.sso import LR_BOUNDS
from thalweg.testing import CHECKS, check_optimizer

X3 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
Y3 = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)


def linear(inputs: int, outputs: int = 1) -> nn.Linear:
    net = nn.Linear(inputs, outputs, bias=False).double()
    nn.init.zeros_(net.weight)
    return net


def logistic(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(z[:, 0], y, reduction="sum")


def half_squares(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 0.5 * (z - y).square().sum()


def problem(*middle: nn.Module) -> tuple[nn.Module, Closure]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(12, 4, dtype=torch.float64)
    return net, Closure(net, F.cross_entropy, x, torch.arange(12) % 3)


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize(
    ("steps", "found"),
    [(1, (0.6667, 0.0)), (2, (0.8889, -0.2222)), (3, (1.0370, -0.3704)), (5, (1.2016, -0.5350)), (80, (4 / 3, -2 / 3))],
)
def test_three_points_by_hand(steps: int, found: tuple[float, float]) -> None:
    """Logistic loss from zero: D = (-1/2, 1/2, -1/2), and the pseudo-inverse of X takes it to (2/3, -1/3), times the step of 2."""
    net = linear(2)
    optimizer = TargetSurrogate(net, lr=2.0, inner="gd", inner_lr=1 / 3, inner_steps=steps, reduction="sum")
    optimizer.step(Closure(net, logistic, X3, Y3))
    assert net.weight.detach()[0].tolist() == pytest.approx(found, abs=5e-5)


def test_one_inner_step_is_descent() -> None:
    net, closure = problem()
    twin = copy.deepcopy(net)
    ours = TargetSurrogate(net.parameters(), lr=0.5, inner="gd", inner_lr=0.2, inner_steps=1)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(20):
        ours.step(closure)
        theirs.zero_grad()
        F.cross_entropy(twin(closure.inputs), closure.targets).backward()
        theirs.step()
    torch.testing.assert_close(weights(net), weights(twin), rtol=0, atol=1e-14)
    assert ours.last_step is not None and ours.last_step.passes == 1 and ours.last_step.surrogate is None


def test_squares_in_one_step() -> None:
    """A whole step of each output leads to the targets, and the inner steps to their least-squares fit."""
    torch.manual_seed(1)
    x, y = torch.randn(10, 4, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)
    best = torch.linalg.lstsq(x, y).solution[:, 0]
    rate = 1 / torch.linalg.eigvalsh(x.T @ x)[-1].item()
    for settings in ({"inner": "gd", "inner_lr": rate, "inner_steps": 250}, {"inner_steps": 60}):
        net = linear(4)
        TargetSurrogate(net, lr=1.0, reduction="sum", **settings).step(Closure(net, half_squares, x, y))
        torch.testing.assert_close(net.weight.detach()[0], best, rtol=1e-5, atol=1e-6)


def test_means_are_steps_of_every_term() -> None:
    """With a mean over b terms, lr is still the step of each: as for the sum with the same lr."""
    ends = []
    for reduction, loss_fn in (("sum", logistic), ("mean", lambda z, y: logistic(z, y) / len(y))):
        net = linear(2)
        factor = 1.0 if reduction == "sum" else 3.0
        optimizer = TargetSurrogate(net, 2.0, 7, inner="gd", inner_lr=factor / 3, reduction=reduction)
        optimizer.step(Closure(net, loss_fn, X3, Y3))
        ends.append(net.weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 3), (6,)])
def test_terms_are_positions(shape: tuple[int, ...]) -> None:
    """Words of a text count as rows do; without a last dimension of classes, every output counts."""
    z = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    net = nn.Module()
    net.z = z
    net.forward = lambda inputs: net.z  # type: ignore[method-assign]
    target = torch.ones(shape, dtype=torch.float64)
    closure = Closure(net, lambda z, y: 0.5 * (z - y).square().sum() / 6, None, target)
    TargetSurrogate([z], lr=1.0, inner="gd", inner_lr=6.0, inner_steps=3).step(closure)
    torch.testing.assert_close(z.detach(), target)


def test_the_surrogate_lies_above_the_loss() -> None:
    """At the inverse of the largest curvature, wherever the weights are; at ten times that it doesn't."""
    torch.manual_seed(2)
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(2, (8,)).double()
    broken = 0
    z = x @ torch.randn(3, dtype=torch.float64)
    slope = z.sigmoid() - y
    for w in 3 * torch.randn(1000, 3, dtype=torch.float64):
        moved = x @ w - z
        gap = F.binary_cross_entropy_with_logits(x @ w, y, reduction="sum")
        gap -= F.binary_cross_entropy_with_logits(z, y, reduction="sum") + slope @ moved
        assert gap <= moved.square().sum() / (2 * 4) + 1e-12
        broken += int(gap > moved.square().sum() / (2 * 40))
    assert broken > 0


@pytest.mark.parametrize("inner_steps", [1, 4])
@pytest.mark.parametrize("inner", ["line_search", "adamw"])
def test_on_the_whole_set_the_loss_never_rises(inner: str, inner_steps: int) -> None:
    net, closure = problem()
    optimizer = TargetSurrogate(net, 1.0, inner_steps, inner=inner, inner_lr=None if inner == "line_search" else 1e-3)
    losses = [optimizer.step(closure).item() for _ in range(12)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.01
    if inner == "line_search":
        assert optimizer.last_step is not None and closure.loss() <= optimizer.last_step.surrogate < losses[-1]


def test_one_query_a_step() -> None:
    net, closure = problem()
    asked: list[bool] = []

    def loss_fn(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        asked.append(z.grad_fn is None)  # outputs without the model's graph
        return F.cross_entropy(z, y)

    optimizer = TargetSurrogate(net, inner_steps=6)
    for _ in range(3):
        optimizer.step(Closure(net, loss_fn, closure.inputs, closure.targets))
    assert asked == [True] * 3
    step = optimizer.last_step
    assert step is not None and step.queries == 1 and step.inner_steps == 6 and step.passes >= 12


def test_gradients_alone() -> None:
    """An expert that gives gradients, not values."""
    net, closure = problem()
    twin = copy.deepcopy(net)

    def ask(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (z.softmax(1) - F.one_hot(y, 3)) / len(y)

    for model, loss_fn in ((net, F.cross_entropy), (twin, lambda z, y: (z * ask(z.detach(), y)).sum())):
        optimizer = TargetSurrogate(model, inner_steps=4)
        for _ in range(3):
            optimizer.step(Closure(model, loss_fn, closure.inputs, closure.targets))
    torch.testing.assert_close(weights(net), weights(twin), rtol=1e-9, atol=1e-12)


def test_armijo_in_target_space() -> None:
    """Half of the squares has curvature 1: the condition with c = 1/2 holds up to a step of exactly 1, of any batch."""
    for x in (X3, X3.repeat(4, 1)):
        net = linear(2)
        y = torch.ones(len(x), 1, dtype=torch.float64)
        closure = Closure(net, lambda z, y: half_squares(z, y) / len(y), x, y)
        optimizer = TargetSurrogate(net, lr=1 / 0.9**5, schedule="armijo")
        optimizer.step(closure)
        step = optimizer.last_step
        assert step is not None and step.lr == pytest.approx(1.0) and step.queries == 7
        optimizer.step(closure)  # from 1.8 times that
        assert optimizer.last_step is not None and optimizer.last_step.lr == pytest.approx(1.8 * 0.9**6)
    flat = Closure(net, lambda z, y: z.sum().exp(), X3, None)
    optimizer = TargetSurrogate(net, lr=1e9, schedule="armijo")
    optimizer.step(flat)
    assert LR_BOUNDS[0] <= optimizer.param_groups[0]["accepted_lr"] <= LR_BOUNDS[1]
    never = Closure(net, lambda z, y: z.sum() + 1e6 * (z.detach() != z0).any(), X3, None)
    z0 = net(X3).detach()
    TargetSurrogate(net, schedule="armijo", beta=0.1).step(never)


def test_the_line_search() -> None:
    """The first trial is 10 lr, each is 0.9 of the last, and the first that lowers the surrogate enough is taken."""
    net = linear(2)
    optimizer = TargetSurrogate(net, lr=2.0, inner_steps=1, reduction="sum")
    optimizer.step(Closure(net, logistic, X3, Y3))
    # S = -w_1 + (w_1^2 + ...)/2 along (1, 0), curvature 1 by eta 2 and X^T X = 2: half the foretold decrease up to a step of 1
    step = next(20 * 0.9**k for k in range(99) if 20 * 0.9**k <= 1)
    assert net.weight.detach()[0].tolist() == pytest.approx((step, 0.0))


def test_weight_decay_is_of_the_old_weights() -> None:
    net, closure = problem()
    twin = copy.deepcopy(net)
    before = weights(net)
    TargetSurrogate(net.parameters(), lr=0.5, weight_decay=0.1).step(closure)
    TargetSurrogate(twin.parameters(), lr=0.5).step(Closure(twin, F.cross_entropy, closure.inputs, closure.targets))
    torch.testing.assert_close(weights(net), weights(twin) - 0.05 * before, rtol=1e-12, atol=1e-14)
    assert [g["weight_decay"] for g in TargetSurrogate(net, weight_decay=0.1).param_groups] == [0.1, 0.0]


def test_batch_normalization_counts_once_and_dropout_draws_once() -> None:
    net, closure = problem(nn.BatchNorm1d(6), nn.Dropout(0.5))
    twin, masks = copy.deepcopy(net), []
    net[2].register_forward_hook(lambda module, given, output: masks.append(output == 0))
    torch.manual_seed(5)
    TargetSurrogate(net, inner_steps=3).step(closure)
    after = torch.rand(1)
    torch.manual_seed(5)
    twin(closure.inputs)
    assert torch.equal(net[1].running_mean, twin[1].running_mean) and net[1].num_batches_tracked == 1
    assert len(masks) > 4 and all(torch.equal(mask, masks[0]) for mask in masks)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("schedule", ["constant", "armijo"])
def test_saved_copied_and_pickled_it_goes_on_bit_by_bit(schedule: str) -> None:
    net, closure = problem()
    optimizer = TargetSurrogate(net, lr=4.0, inner_steps=2, schedule=schedule, beta=0.5)
    optimizer.step(closure)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    net.zero_grad()
    pairs = [way((net, optimizer)) for way in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair)))]
    resumed = copy.deepcopy(net)
    fresh = TargetSurrogate(resumed)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    optimizer.step(closure)
    for own, twin in (*pairs, (resumed, fresh)):
        twin.step(Closure(own, F.cross_entropy, closure.inputs, closure.targets))
        assert torch.equal(weights(net), weights(own))


def test_processes_share_the_numbers(monkeypatch) -> None:
    """Two processes with the same half batch each do what one does: values are averaged as gradients are."""
    monkeypatch.setattr("thalweg.optim.surrogate.dist.all_reduce", lambda value: value.mul_(2))
    net, closure = problem()
    twin = copy.deepcopy(net)
    TargetSurrogate(net, lr=4.0, schedule="armijo", beta=0.5).step(closure)
    other = Closure(twin, F.cross_entropy, closure.inputs, closure.targets, num_processes=2)
    TargetSurrogate(twin, lr=4.0, schedule="armijo", beta=0.5).step(other)
    assert torch.equal(weights(net), weights(twin))


def test_sharded_weights() -> None:
    """FSDP2, here of one process: a root module that keeps gathered weights doesn't hide trials from the line search."""
    from torch import distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net, closure = problem()
    sharded = copy.deepcopy(net)
    optimizer = TargetSurrogate(net, lr=2.0, inner_steps=3, beta=0.5)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
        twin = TargetSurrogate(sharded, lr=2.0, inner_steps=3, beta=0.5)
        own = Closure(sharded, F.cross_entropy, closure.inputs, closure.targets, zero_grad=twin.zero_grad)
        for _ in range(3):
            torch.testing.assert_close(twin.step(own), optimizer.step(closure), rtol=1e-12, atol=0)
        for ours, theirs in zip(net.parameters(), sharded.parameters(), strict=True):
            torch.testing.assert_close(theirs.full_tensor(), ours.detach(), rtol=1e-12, atol=1e-14)
    finally:
        dist.destroy_process_group()


def test_what_leaves_the_weights_as_they_are() -> None:
    net, closure = problem()
    before = weights(net)
    calls: list[int] = []

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return net(inputs)

    failing = copy.copy(closure)
    failing.outputs = lambda: forward(closure.inputs)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        TargetSurrogate(net).step(failing)
    assert torch.equal(weights(net), before)
    with pytest.raises(FloatingPointError, match="is not finite; nothing was changed"):
        TargetSurrogate(net).step(Closure(net, lambda z, y: z.sum() * math.nan, closure.inputs, closure.targets))
    TargetSurrogate(net).step(Closure(net, lambda z, y: 0 * z.sum(), closure.inputs, closure.targets))
    optimizer = TargetSurrogate(net, lr=0.0)
    optimizer.step(closure)
    assert (
        torch.equal(weights(net), before) and optimizer.last_step is not None and optimizer.last_step.inner_steps == 0
    )


def test_errors() -> None:
    net, closure = problem()
    for settings, message in [
        ({"inner_steps": 0}, "Invalid inner_steps: 0"),
        ({"inner_steps": 1.5}, "Invalid inner_steps"),
        ({"lr": -1.0}, "Invalid lr: -1.0"),
        ({"c": 1.0}, "Invalid c"),
        ({"beta": 1.0}, "Invalid beta"),
        ({"expand": 0.5}, "Invalid expand"),
        ({"inner_lr": 0.0}, "Invalid inner_lr"),
        ({"weight_decay": math.nan}, "Invalid weight_decay"),
        ({"schedule": "sqrt"}, "for others use a scheduler"),
        ({"reduction": "none"}, "reduction must be"),
        ({"inner": "gd"}, "say inner_lr"),
        ({"inner": "adamW", "inner_lr": 0.1}, "did you mean 'adamw'"),
        ({"inner": "sam", "inner_lr": 0.1}, "evaluates closures by itself"),
    ]:
        with pytest.raises(ValueError, match=message):
            TargetSurrogate(net, **settings)
    optimizer = TargetSurrogate(net)
    with pytest.raises(TypeError, match=r"step with a thalweg\.autodiff\.Closure"):
        optimizer.step(lambda: closure())
    with pytest.raises(TypeError, match="must give one tensor, not tuple"):
        optimizer.step(Closure(nn.LSTM(4, 3).double(), F.cross_entropy, closure.inputs, closure.targets))
    with pytest.raises(ValueError, match="the same inner_steps"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "inner_steps": 3})
    optimizer.param_groups[1]["lr"] = 0.1
    with pytest.raises(ValueError, match="the same lr"):
        optimizer.step(closure)
    noisy = Closure(net, F.cross_entropy, closure.inputs, closure.targets)
    draws = iter(range(9))
    noisy.outputs = lambda: net(closure.inputs) + next(draws)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="make it deterministic"):
        TargetSurrogate(net).step(noisy)
    rows = nn.Sequential(nn.Embedding(5, 3, sparse=True))
    with pytest.raises(RuntimeError, match="sparse gradients"):
        TargetSurrogate(rows).step(Closure(rows, F.cross_entropy, torch.arange(3), torch.arange(3)))


class Given(nn.Module):
    """Parameters as outputs, those that have a gradient set by hand."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__()
        self.params = nn.ParameterList(params)

    def forward(self, gradients: list[torch.Tensor | None]) -> torch.Tensor:
        flat = [p.flatten() for p, g in zip(self.params, gradients, strict=True) if g is not None]
        return torch.cat([torch.zeros(0, dtype=self.params[0].dtype), *flat])


class ByHand(TargetSurrogate):
    """Where the weights are the outputs, whose gradients are set by hand, it is plain descent: the public checks apply."""

    def __init__(self, params, lr=0.05, **settings) -> None:
        super().__init__(params, lr, 3, inner="gd", inner_lr=1.0, reduction="sum", **settings)

    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        for p in params:
            if p.grad is not None and p.grad.layout is not torch.strided:
                raise RuntimeError("sparse")
        given = [p.grad for p in params]
        slopes = [g.flatten() for g in given if g is not None]
        if slopes:
            super().step(Closure(Given(params), lambda z, y: (z * y).sum(), given, torch.cat(slopes)))
        for p, g in zip(params, given, strict=True):
            p.grad = g
        return loss


NOT_FOR_IT = {
    "learning_rate_of_groups": "all groups have one rate",
    "complex_parameters": "outputs are real",
    "nan_gradients": "raises, and changes nothing",
    "grad_scaler": "a scaler takes no closures",
    "hooks": "they run twice where step calls step; see below",
    "printing": "all groups have one rate",
}


def test_the_public_checks_that_apply() -> None:
    outcomes = check_optimizer(ByHand, skip=NOT_FOR_IT, on_fail="return")
    assert [f"{o.check}: {o.message}" for o in outcomes if o.status == "failed"] == []
    assert sum(o.status == "passed" for o in outcomes) >= len(CHECKS) - len(NOT_FOR_IT) - 2


def test_hooks_run_once_a_step() -> None:
    net, closure = problem()
    optimizer, seen = TargetSurrogate(net), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.step(closure)
    assert seen == ["before", "after"]


def test_where_weights_are_outputs_it_is_descent() -> None:
    params = [[nn.Parameter(torch.linspace(-1, 1, 5))] for _ in range(2)]
    optimizers = [ByHand(params[0], lr=0.1), SGD(params[1], lr=0.1, momentum=0.0)]
    for step in range(3):
        for (p,), optimizer in zip(params, optimizers, strict=True):
            p.grad = torch.full((5,), step - 0.5)
            optimizer.step()
    torch.testing.assert_close(params[0][0], params[1][0])
