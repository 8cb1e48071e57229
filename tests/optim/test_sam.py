"""SAM: hand steps, its neighbourhood, what it shares with its base, and loops of one's own."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import pytorch_optimizer
import torch
from torch import nn
from torch.nn import functional as F

from thalweg.autodiff import Closure
from thalweg.optim import SAM, SGD, AdamW, Lion, SophiaG
from thalweg.testing import CHECKS, check_optimizer


class Held(SAM):
    """SAM on a gradient that is the same everywhere, where it must do what its base does: the checks set gradients by hand."""

    def step(self, closure=None):
        return super().step(closure or (lambda: None))


def problem(seed: int = 0, *middle: nn.Module) -> tuple[nn.Module, Closure]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(12, 4, dtype=torch.float64)
    return net, Closure(net, F.cross_entropy, x, torch.arange(12) % 3)


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def scalar(value: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value, dtype=torch.float64))


@pytest.mark.parametrize(
    ("adaptive", "start", "gradient"),
    [(False, 1.0, 4 * 1.1), (False, -2.0, -4 * 2.1), (True, 2.0, 4 * 2.2), (True, -2.0, -4 * 2.2), (True, 0.0, 0.0)],
)
def test_a_step_by_hand(adaptive: bool, start: float, gradient: float) -> None:
    """Half of 4 w^2: the worst point within 0.1 lies outwards; relative to the weight, a tenth of it further out."""
    w = scalar(start)
    optimizer = SAM([w], torch.optim.SGD, lr=0.5, rho=0.1, adaptive=adaptive, weight_decay=0.0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = 2 * w.square()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2 * start**2
    assert w.item() == pytest.approx(start - 0.5 * gradient, rel=1e-14)


@pytest.mark.parametrize("adaptive", [False, True])
def test_it_goes_the_way_of_a_public_package(adaptive: bool) -> None:
    net, closure = problem()
    twin = copy.deepcopy(net)
    ours = SAM(net.parameters(), torch.optim.SGD, lr=0.1, rho=0.3, adaptive=adaptive, momentum=0.9, weight_decay=0.01)
    theirs = pytorch_optimizer.SAM(
        twin.parameters(), torch.optim.SGD, rho=0.3, adaptive=adaptive, lr=0.1, momentum=0.9, weight_decay=0.01
    )
    for _ in range(5):
        ours.step(closure)
        for half in (theirs.first_step, theirs.second_step):
            F.cross_entropy(twin(closure.inputs), closure.targets).backward()
            half(zero_grad=True)
    torch.testing.assert_close(weights(net), weights(twin), rtol=1e-6, atol=1e-7)  # theirs takes the norm in float32


@pytest.mark.parametrize("base", ["adamw", "lion", AdamW, torch.optim.AdamW, torch.optim.Adagrad])
def test_without_a_radius_it_is_its_base(base) -> None:
    net, closure = problem()
    twin = copy.deepcopy(net)
    alone = {"adamw": AdamW, "lion": Lion}.get(base, base)(twin.parameters(), lr=0.02, weight_decay=0.1)
    optimizer = SAM(net.parameters(), base, lr=0.02, rho=0.0, weight_decay=0.1)
    for _ in range(4):
        optimizer.step(closure)
        alone.zero_grad()
        F.cross_entropy(twin(closure.inputs), closure.targets).backward()
        alone.step()
    assert torch.equal(weights(net), weights(twin))


def test_the_neighbourhood() -> None:
    """Its radius is that of all groups together, whatever the gradient's size; the weights come back bit by bit."""
    net, closure = problem()
    (first, last) = net[0].parameters(), net[2].parameters()
    optimizer = SAM([{"params": first}, {"params": last}], SGD, rho=0.07)
    before = weights(net)
    for factor in (1.0, 1e-6, 1e6):
        closure()
        for p in net.parameters():
            p.grad.mul_(factor)
        gradient = torch.cat([p.grad.flatten() for p in net.parameters()])
        optimizer.perturb()
        torch.testing.assert_close(weights(net) - before, 0.07 * gradient / gradient.norm(), rtol=1e-9, atol=1e-15)
        optimizer.restore()
        assert torch.equal(weights(net), before)
    closure()
    optimizer.perturb()
    optimizer.perturb()  # from the weights, not from where they were moved
    assert (weights(net) - before).norm() == pytest.approx(0.07)
    optimizer.restore()
    optimizer.restore()
    assert torch.equal(weights(net), before)


def test_adaptive_neighbourhoods_follow_a_rescaling() -> None:
    """Two layers that multiply: c w and v / c is the same function, and its perturbation the same relative to the weights."""
    moved = []
    for c in (1.0, 8.0):
        w, v = scalar(2.0 * c), scalar(3.0 / c)
        optimizer = SAM([w, v], SGD, rho=0.5, adaptive=True)
        (w * v).square().backward()
        optimizer.perturb()
        moved.append((w.item() / c, v.item() * c))
    assert moved[0] == pytest.approx(moved[1], rel=1e-14)


def test_each_group_its_radius_and_uphill_for_maximize() -> None:
    a, b, c = scalar(1.0), scalar(1.0), scalar(1.0)
    groups = [{"params": [a], "rho": 0.3}, {"params": [b]}, {"params": [c], "maximize": True}]
    optimizer = SAM(groups, SGD, rho=0.0)
    optimizer.param_groups[2]["rho"] = 0.3
    (a + b + c).backward()
    optimizer.perturb()
    assert [a.item(), b.item(), c.item()] == pytest.approx([1 + 0.3 / 3**0.5, 1.0, 1 - 0.3 / 3**0.5])


def test_zero_and_missing_gradients_move_nothing() -> None:
    a, b = scalar(1.0), scalar(1.0)
    optimizer = SAM([a, b], SGD, rho=0.1, weight_decay=0.0)
    a.grad = torch.zeros_like(a)
    assert optimizer.step(lambda: 0.0) == 0.0
    assert a.item() == b.item() == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_gradient_is_seen(bad: float) -> None:
    """It makes the perturbed loss NaN, and the base does what it was told."""
    for nonfinite in ("propagate", "skip", "raise"):
        w = nn.Parameter(torch.ones(3))
        optimizer = SAM([w], AdamW, rho=0.1, nonfinite=nonfinite)
        factor = torch.tensor([bad, 1.0, 1.0])

        def closure(w=w, factor=factor, optimizer=optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = (factor * w.square()).sum()
            loss.backward()
            return loss

        if nonfinite == "raise":
            with pytest.raises(FloatingPointError, match="the gradient of parameter"):
                optimizer.step(closure)
        else:
            optimizer.step(closure)
        assert torch.equal(w, torch.ones(3)) == (nonfinite != "propagate") and w.isnan().any() == (
            nonfinite == "propagate"
        )


@pytest.mark.parametrize("on_base", [False, True])
def test_schedulers(on_base: bool) -> None:
    net, closure = problem()
    optimizer = SAM(net, lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.base if on_base else optimizer, 1, gamma=0.5)
    for step in range(3):
        assert [g["lr"] for g in (*optimizer.param_groups, *optimizer.base.param_groups)] == [0.1 * 0.5**step] * 4
        optimizer.step(closure)
        scheduler.step()


def test_the_state_dict_is_the_bases() -> None:
    net, closure = problem()
    optimizer = SAM(net.parameters(), lr=0.02, rho=0.2)
    optimizer.step(closure)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert saved["param_groups"][0]["rho"] == 0.2 and set(saved["state"][0]) == {"step", "exp_avg", "exp_avg_sq"}
    twin = copy.deepcopy(net)
    alone = AdamW(twin.parameters())
    alone.load_state_dict(copy.deepcopy(saved))
    back = SAM(copy.deepcopy(net).parameters(), rho=0.7)
    for group in saved["param_groups"]:
        del group["rho"]  # as the base alone would have saved it
    back.load_state_dict(saved)
    assert back.param_groups[0]["rho"] == 0.7 and back.param_groups[0]["lr"] == alone.param_groups[0]["lr"] == 0.02
    assert torch.equal(alone.state[next(iter(twin.parameters()))]["exp_avg"], optimizer.state[net[0].weight]["exp_avg"])


def test_resumed_and_copied_it_goes_on_bit_by_bit() -> None:
    net, closure = problem()
    optimizer = SAM(net.parameters(), lr=0.02, rho=0.2)
    optimizer.step(closure)
    ends = []
    for way in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        net.zero_grad()
        own, twin = way((net, optimizer))
        twin.step(Closure(own, F.cross_entropy, closure.inputs, closure.targets))
        ends.append(weights(own))
    resumed = copy.deepcopy(net)
    fresh = SAM(resumed.parameters(), rho=0.9)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    fresh.step(Closure(resumed, F.cross_entropy, closure.inputs, closure.targets))
    optimizer.step(closure)
    assert all(torch.equal(weights(net), end) for end in (*ends, weights(resumed)))


def test_groups_added_later() -> None:
    a, b, c = scalar(), scalar(), scalar()
    optimizer = SAM([a], SGD, rho=0.1)
    optimizer.add_param_group({"params": [b]})
    optimizer.add_param_group({"params": [c], "rho": 0.4})
    assert [g["rho"] for g in optimizer.base.param_groups] == [0.1, 0.1, 0.4]
    (a + b + c).backward()
    optimizer.perturb()
    assert optimizer.step() is None and b.item() < 1 and c.item() < 1
    with pytest.raises(ValueError, match="Invalid rho: -1"):
        optimizer.add_param_group({"params": [scalar()], "rho": -1})
    assert len(optimizer.param_groups) == len(optimizer.base.param_groups) == 3


def test_batch_normalization_counts_once_and_dropout_draws_once() -> None:
    net, closure = problem(0, nn.BatchNorm1d(6), nn.Dropout(0.5))
    twin = copy.deepcopy(net)
    optimizer = SAM(net, rho=0.1)
    masks = []
    net[2].register_forward_hook(lambda module, given, output: masks.append(output == 0))
    torch.manual_seed(5)
    optimizer.step(closure)
    after = torch.rand(1)
    torch.manual_seed(5)
    twin(closure.inputs)
    assert torch.equal(net[1].running_mean, twin[1].running_mean) and net[1].num_batches_tracked == 1
    assert len(masks) == 2 and torch.equal(*masks) and masks[0].any()
    assert torch.equal(after, torch.rand(1))


def test_a_loop_of_ones_own_with_a_scaler() -> None:
    """Equal to the closure's step; an overflow in either pass leaves the weights as they were."""
    net, closure = problem()
    net.float()
    closure.inputs = closure.inputs.float()
    twin = copy.deepcopy(net)
    whole = SAM(twin.parameters(), SGD, lr=0.1, rho=0.2)
    optimizer = SAM(net.parameters(), SGD, lr=0.1, rho=0.2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(overflow: int | None = None) -> None:
        for number in range(2):
            optimizer.zero_grad()
            scaler.scale(closure.loss()).backward()
            if number == overflow:
                net[0].weight.grad[0, 0] = float("inf")
            (optimizer.perturb, optimizer.restore)[number]()
        scaler.step(optimizer)
        scaler.update()

    step()
    whole.step(Closure(twin, F.cross_entropy, closure.inputs, closure.targets))
    torch.testing.assert_close(weights(net), weights(twin), rtol=1e-5, atol=1e-6)
    before = weights(net)
    for overflow in range(2):
        step(overflow)
        assert torch.equal(weights(net), before)
    step()
    assert not torch.equal(weights(net), before) and weights(net).isfinite().all()


def test_an_exception_in_the_second_pass_leaves_the_weights() -> None:
    net, closure = problem()
    optimizer = SAM(net, rho=0.3)
    before, calls = weights(net), []

    def failing() -> torch.Tensor:
        calls.append(weights(net))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return closure()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert torch.equal(weights(net), before) and not torch.equal(calls[1], before)


def test_errors() -> None:
    w = nn.Parameter(torch.ones(2, 3))
    for rho in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^Invalid rho: "):
            SAM([w], rho=rho)
    with pytest.raises(ValueError, match="SAM can't wrap SophiaG, which evaluates closures by itself"):
        SAM([w], SophiaG)
    with pytest.raises(ValueError, match="SAM can't wrap LBFGS"):
        SAM([w], torch.optim.LBFGS, weight_decay=0.0)
    with pytest.raises(ValueError, match="did you mean 'lion'"):
        SAM([w], "lio")
    optimizer = SAM([w])
    with pytest.raises(RuntimeError, match=r"^SAM needs a second gradient: call step\(closure\)"):
        optimizer.step()
    w.grad = torch.eye(2, 3).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.perturb()
    w.grad = torch.ones(2, 3)
    optimizer.perturb()
    with pytest.raises(RuntimeError, match="the weights are perturbed"):
        copy.deepcopy(optimizer)


@pytest.mark.parametrize("base", ["adamw", torch.optim.SGD])
def test_the_public_checks(base) -> None:
    """All but one hold on gradients that are the same everywhere; a step that moves as backward and step do is what SAM is not."""
    skipped = {"closure", "hooks"}  # hooks: in a subclass whose step calls SAM's, torch calls them for both
    skipped |= (
        {"loading_copies", "bad_settings", "step_counts"} if base is torch.optim.SGD else set()
    )  # torch's own fails two, and counts no steps
    outcomes = check_optimizer(Held, base=base, lr=0.05, rho=0.01, skip=skipped)
    assert len(outcomes) == len(CHECKS) - len(skipped)
    assert {o.check for o in outcomes if o.status != "passed"} == set()
    check_optimizer(Held, base=base, lr=0.05, rho=0.0, checks=["closure"])


def test_hooks_are_called_once() -> None:
    net, closure = problem()
    optimizer, seen = SAM(net), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.base.register_step_post_hook(lambda *_: seen.append("base"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    optimizer.step(closure)
    assert seen == ["pre", "base", "post"]
