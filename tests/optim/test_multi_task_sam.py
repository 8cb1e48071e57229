"""SAM for several tasks: closed forms, TorchJD's aggregators, and what one task's perturbation must not touch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.autodiff import Closure
from thalweg.optim import SAM, SGD, Lion, MultiTaskSAM
from thalweg.testing import check_optimizer


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def shortest_of_two(gradients: torch.Tensor) -> torch.Tensor:
    """MGDA for two tasks: the point nearest to zero on the segment between the gradients."""
    first, second = gradients
    weight = (second @ (second - first) / (first - second).square().sum()).clamp(0, 1)
    return weight * first + (1 - weight) * second


def projected_conflicts(gradients: torch.Tensor) -> torch.Tensor:
    """PCGrad for two tasks, where the order doesn't matter: a sum."""
    first, second = gradients
    dot = (first @ second).clamp(max=0)
    return first - dot / second.square().sum() * second + second - dot / first.square().sum() * first


class Net(nn.Module):
    """A trunk and two heads."""

    def __init__(self, seed: int = 0, *middle: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(4, 5), *middle, nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 1)])
        self.double()
        self.x = torch.randn(12, 4, dtype=torch.float64)
        self.y = torch.arange(12) % 3

    def losses(self) -> list[torch.Tensor]:
        hidden = self.trunk(self.x)
        return [F.cross_entropy(self.heads[0](hidden), self.y), self.heads[1](hidden).square().mean()]

    def loss(self, task: int) -> torch.Tensor:
        return self.losses()[task]

    def optimizer(self, *arguments, **settings) -> MultiTaskSAM:
        settings = {"base": SGD, "lr": 0.1, "weight_decay": 0.0, "rho": 0.3} | settings
        return MultiTaskSAM(self.trunk.parameters(), [h.parameters() for h in self.heads], *arguments, **settings)

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


def quadratics(**settings) -> tuple[torch.Tensor, MultiTaskSAM]:
    """Half of s^2 and of 4 s^2 from 1: SAM gradients 1.1 and 4.4 at radius 0.1."""
    s = nn.Parameter(vector(1.0))
    given = {"base": torch.optim.SGD, "lr": 1.0, "weight_decay": 0.0, "rho": 0.1} | settings
    optimizer = MultiTaskSAM([s], [[], []], **given)
    optimizer.step([lambda: 0.5 * s.square().sum(), lambda: 2 * s.square().sum()])
    return s, optimizer


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("shared_forward", [False, True])
def test_one_task_is_sam(adaptive: bool, shared_forward: bool) -> None:
    net = Net()
    twin = copy.deepcopy(net)
    sam = SAM([*twin.trunk.parameters(), *twin.heads[0].parameters()], Lion, lr=0.01, rho=0.3, adaptive=adaptive)
    optimizer = MultiTaskSAM(
        net.trunk.parameters(), [net.heads[0].parameters()], base="lion", lr=0.01, rho=0.3, adaptive=adaptive
    )

    def closure() -> torch.Tensor:
        sam.zero_grad()
        loss = twin.loss(0)
        loss.backward()
        return loss

    for _ in range(3):
        seen = optimizer.step((lambda: net.losses()[:1]) if shared_forward else [lambda: net.loss(0)])
        assert seen.losses.item() == sam.step(closure).item() < seen.perturbed_losses.item()
    torch.testing.assert_close(net.weights(), twin.weights(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("aggregator", "aggregate", "expected"),
    [
        (None, "direct", 2.75),
        (None, "decomposed", 2.75),
        (None, "loss_only_conflict", 2.75),
        (shortest_of_two, "direct", 1.1),
        (shortest_of_two, "decomposed", 1.1),
        (shortest_of_two, "loss_only_conflict", 1 + 0.25),
    ],
)
def test_two_quadratics(aggregator, aggregate: str, expected: float) -> None:
    own = {} if aggregator is None else {"aggregator": aggregator}
    s, _ = quadratics(aggregate=aggregate, **own)
    assert s.item() == pytest.approx(1 - expected, abs=1e-14)
    assert s.grad.item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("aggregator", [shortest_of_two, projected_conflicts])
def test_without_a_radius_it_is_the_aggregator(aggregator) -> None:
    net = Net()
    twin = copy.deepcopy(net)
    optimizer = net.optimizer(aggregator, rho=0.0)
    alone = SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        seen = optimizer.step(net.losses)
        assert torch.equal(seen.losses, seen.perturbed_losses)
        shared, rows = list(twin.trunk.parameters()), []
        for task, loss in enumerate(twin.losses()):
            own = list(twin.heads[task].parameters())
            gradients = torch.autograd.grad(loss, [*shared, *own], retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in gradients[: len(shared)]]))
            for p, g in zip(own, gradients[len(shared) :], strict=True):
                p.grad = g
        for p, g in zip(shared, aggregator(torch.stack(rows)).split([p.numel() for p in shared]), strict=True):
            p.grad = g.view_as(p)
        alone.step()
    torch.testing.assert_close(net.weights(), twin.weights(), rtol=1e-12, atol=1e-13)


def test_aggregators_of_torchjd() -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    pairs = [
        (aggregation.MGDA(epsilon=1e-14, max_iters=1000), shortest_of_two),
        (aggregation.PCGrad(), projected_conflicts),
    ]
    conflicting = torch.stack([vector(1.0, 0.0), vector(-1.0, 1.0)])
    torch.testing.assert_close(aggregation.PCGrad()(conflicting), vector(0.5, 1.5), rtol=1e-12, atol=0)
    for theirs, ours in pairs:
        torch.testing.assert_close(theirs(conflicting), ours(conflicting), rtol=1e-12, atol=1e-14)
        net = Net()
        twin = copy.deepcopy(net)
        first, second = net.optimizer(theirs), twin.optimizer(ours)
        for _ in range(3):
            first.step(net.losses)
            second.step(twin.losses)
        torch.testing.assert_close(net.weights(), twin.weights(), rtol=1e-9, atol=1e-11)
    upgrad = net.optimizer(aggregation.UPGrad())
    before = net.weights()
    upgrad.step(net.losses)
    assert not torch.equal(before, net.weights())
    torch.testing.assert_close(aggregation.UPGrad()(conflicting), vector(0.25, 0.75), rtol=1e-3, atol=1e-3)
    imtl = aggregation.IMTLG()(conflicting)
    projections = conflicting @ imtl / conflicting.norm(dim=1)
    torch.testing.assert_close(projections[0], projections[1], rtol=1e-12, atol=0)


def test_only_the_base_moves_the_weights_and_only_a_tasks_own_head_is_perturbed() -> None:
    net = Net()
    at: list[list[torch.Tensor]] = []
    optimizer = net.optimizer(lr=0.0)
    before = net.weights()

    def closure(task: int) -> torch.Tensor:
        at.append([p.detach().clone() for p in net.parameters()])
        return net.loss(task)

    optimizer.step([lambda: closure(0), lambda: closure(1)])
    assert torch.equal(net.weights(), before)
    shared = len(list(net.trunk.parameters()))
    for task, seen in enumerate(at[2:]):
        moved = [not torch.equal(now, then) for now, then in zip(seen, at[0], strict=True)]
        assert moved == [True] * shared + [task == 0] * 2 + [task == 1] * 2
        distance = torch.cat([(a - b).flatten() for a, b in zip(seen, at[0], strict=True)]).norm()
        assert distance.item() == pytest.approx(0.3, rel=1e-12)


def test_norms_of_their_own() -> None:
    net, seen = Net(), []
    optimizer = net.optimizer(joint_norm=False, rho=0.2)
    start = [p.detach().clone() for p in net.parameters()]

    def losses() -> list[torch.Tensor]:
        seen.append([(p.detach() - s).flatten() for p, s in zip(net.parameters(), start, strict=True)])
        return net.losses()

    optimizer.step(losses)
    for moved in seen[1:]:
        assert [torch.cat(part).norm().item() for part in (moved[:2], moved[2:])] == pytest.approx(
            [0.2, 0.2], rel=1e-12
        )


def test_adaptive_perturbations_follow_a_rescaling_of_the_shared_weights() -> None:
    """Through a normalization the loss doesn't know the scale c, and the perturbation is the same relative to the weights."""
    moved = []
    for c in (1.0, 5.0):
        s, seen = nn.Parameter(c * vector(1.0, -2.0, 0.5)), []

        def loss(s=s, seen=seen) -> torch.Tensor:
            seen.append(s.detach().clone())
            return F.normalize(s, dim=0)[0].sin()

        MultiTaskSAM([s], [[]], base=SGD, lr=0.0, rho=0.3, adaptive=True).step([loss])
        moved.append((seen[1] - seen[0]) / c)
    assert moved[0].norm() > 0.05
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", ["shared", "separate", "closures"])
def test_batch_normalization_counts_once_and_dropout_draws_once(way: str) -> None:
    net = Net(0, nn.BatchNorm1d(5), nn.Dropout(0.5)).double()
    masks: list[torch.Tensor] = []
    net.trunk[2].register_forward_hook(lambda module, given, output: masks.append(output == 0))
    optimizer = net.optimizer(model=None if way == "closures" else net)
    given = {
        "shared": net.losses,
        "separate": [lambda: net.loss(0), lambda: net.loss(1)],
        "closures": [
            Closure(nn.Sequential(net.trunk, net.heads[0]), F.cross_entropy, net.x, net.y),
            Closure(nn.Sequential(net.trunk, net.heads[1]), lambda out, y: out.square().mean(), net.x, net.y),
        ],
    }[way]
    optimizer.step(given)
    assert net.trunk[1].num_batches_tracked == 1
    assert len(masks) == (3 if way == "shared" else 4) and all(torch.equal(mask, masks[0]) for mask in masks)


def test_conflicts_are_reported() -> None:
    a, b = nn.Parameter(vector(1.0, 0.0)), nn.Parameter(vector(2.0))
    optimizer = MultiTaskSAM([a], [[b], []], base=SGD, rho=0.1)
    seen = optimizer.step([lambda: a[0] + b.sum() + a[1], lambda: -a[0]])
    torch.testing.assert_close(seen.gradient_cosines, vector(1, -(0.5**0.5), -(0.5**0.5), 1).view(2, 2))
    assert seen.flatness_cosines.isnan().all()  # linear losses: no flatness part
    torch.testing.assert_close(seen.losses, vector(3.0, -1.0))
    torch.testing.assert_close(seen.perturbed_losses, vector(3 + 0.1 * 3**0.5, -0.9))


def test_zero_gradients_and_rounding_reach_no_aggregator() -> None:
    s = nn.Parameter(vector(0.0, 0.0))

    def divides(rows: torch.Tensor) -> torch.Tensor:
        return rows.mean(0) / rows.norm()

    optimizer = MultiTaskSAM([s], [[], []], divides, base=SGD, weight_decay=0.0)
    optimizer.step([lambda: s.square().sum(), lambda: 3 * s.square().sum()])
    assert torch.equal(s, torch.zeros_like(s))


def test_state_copies_and_groups_of_their_own() -> None:
    net = Net()
    heads = [{"params": h.parameters(), "lr": 0.5} for h in net.heads]
    optimizer = MultiTaskSAM({"params": net.trunk.parameters(), "rho": 0.2}, heads, lr=0.01)
    assert [(g["lr"], g["rho"]) for g in optimizer.base.param_groups] == [(0.01, 0.2), (0.5, 0.05), (0.5, 0.05)]
    optimizer.step(net.losses)
    net.zero_grad()
    resumed = copy.deepcopy(net)
    fresh = MultiTaskSAM(resumed.trunk.parameters(), [h.parameters() for h in resumed.heads])
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twin, moved = pickle.loads(pickle.dumps((net, optimizer)))
    for own, whose in ((net, optimizer), (resumed, fresh), (twin, moved)):
        whose.step(own.losses)
    assert torch.equal(net.weights(), resumed.weights()) and torch.equal(net.weights(), twin.weights())


def test_errors() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    for arguments, settings, message in [
        (([a], []), {}, "at least one task"),
        (([], [[b]]), {}, "shared holds no trainable parameter"),
        (([a], [[b], [a]]), {}, "in two places"),
        (([a], [[b]]), {"rho": -0.1}, "Invalid rho: -0.1"),
        (([a], [[b]]), {"aggregate": "sum"}, "unknown aggregate 'sum'"),
        (([nn.Parameter(torch.ones(1) * 1j)], [[b]]), {}, "complex parameter"),
    ]:
        with pytest.raises(ValueError, match=message):
            MultiTaskSAM(*arguments, **settings)
    optimizer = MultiTaskSAM([a], [[b], []])
    good = lambda: (a * b).sum()  # noqa: E731
    for closures, message in [
        (None, "needs the tasks' losses"),
        ([good], "1 losses for 2 tasks"),
        (lambda: [good()], "1 losses for 2 tasks"),
        ([good, lambda: b.sum()], "the loss of task 1 doesn't depend on the shared parameters"),
        ([lambda: a * b, good], "the loss of task 0 must be a scalar with its graph"),
        ([lambda: good().detach(), good], "the loss of task 0 must be a scalar with its graph"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.step(closures)
    with pytest.raises(ValueError, match=r"the aggregator must make \(2,\) of \(2, 2\), not \(\)"):
        MultiTaskSAM([a], [[b], []], torch.sum).step([good, good])
    with pytest.raises(ValueError, match="tasks are fixed"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert torch.equal(a, torch.ones(2)) and torch.equal(b, torch.ones(2))


class OneTask(MultiTaskSAM):
    """One task over all parameters, whose loss has the gradients that were set by hand, for the public checks."""

    def __init__(self, params, **settings) -> None:
        super().__init__({"params": params} if not isinstance(params, dict) else params, [[]], **settings)

    def step(self, closure=None):
        if all(p.grad is None for p in self._shared):
            return None
        given = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in self._shared]
        return super().step([lambda: sum((p * g).sum() for p, g in zip(self._shared, given, strict=True))])


@pytest.mark.parametrize(
    "check",
    ["goes_down_on_a_quadratic", "is_deterministic", "schedulers", "resumes_bit_by_bit", "dtypes", "maximize"],
)
def test_the_public_checks_that_apply(check: str) -> None:
    """The others set gradients to None, sparse or in groups, or give a closure: tasks here give their losses instead."""
    check_optimizer(OneTask, lr=0.05, rho=0.01, checks=[check])


def test_autocast_reaches_the_losses_alone() -> None:
    rows = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    ends = []
    for enabled in (False, True):
        s = nn.Parameter(torch.zeros(9))
        optimizer = MultiTaskSAM(
            [s], [[], []], shortest_of_two, base=torch.optim.SGD, lr=1.0, weight_decay=0.0, rho=0.0
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = optimizer.step([lambda s=s: (rows[0] * s).sum(), lambda s=s: (rows[1] * s).sum()])
        ends.append((s.data, found.gradient_cosines))
    assert all(torch.equal(a, b) and b.dtype is torch.float32 for a, b in zip(*ends, strict=True))
