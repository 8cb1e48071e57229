"""What torch's own suite asks of its optimizers (``torch.testing._internal.common_optimizers``), asked of ours.

Most of it is in :func:`thalweg.testing.check_optimizer`, which ``tests/testing/test_check.py`` runs on every rule. Here is the rest:
configurations with schedulers, the wording of errors, the flags of torch's that we don't have, and what a fresh step may do.
"""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from thalweg.autodiff import Closure
from thalweg.optim import AdamW, DCTAdamW, Lamb, Muon, SophiaG, create, list_optimizers

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "lr": {"lr": 0.01},
    "Tensor lr": {"lr": torch.tensor(0.01)},
    "weight decay": {"weight_decay": 0.1},
    "maximize": {"maximize": True},
    "maximize, weight decay": {"maximize": True, "weight_decay": 0.1},
}

SCHEDULES: dict[str, Any] = {
    "none": lambda o: [],
    "two at once": lambda o: [lr_scheduler.StepLR(o, gamma=0.9, step_size=10), lr_scheduler.ReduceLROnPlateau(o)],
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_goes_in_the_right_direction(few, configuration: str, schedule: str) -> None:
    """Down, or up with ``maximize``, on a matrix that is also reached through a view with gaps."""
    settings = dict(CONFIGURATIONS[configuration])
    if configuration.endswith("weight decay") and not few.decoupled:
        settings.pop("weight_decay")
    generator = torch.Generator().manual_seed(0)
    inputs, target = torch.randn(8, 5, generator=generator), torch.randn(8, 10, generator=generator)
    for room in (torch.randn(10, 5, generator=generator), torch.randn(10, 5, 2, generator=generator)[..., 0]):
        weight = nn.Parameter(room)
        optimizer = few([weight], **settings)
        schedulers = SCHEDULES[schedule](optimizer)
        losses = []
        for _ in range(12):
            optimizer.zero_grad()
            loss = (inputs @ weight.T - target).square().mean()
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step(*([losses[-1]] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        assert (losses[-1] > losses[0]) is bool(settings.get("maximize"))


@pytest.mark.parametrize("lrs", [(0.0, 0.05), (0.05, 0.0)])
def test_a_convex_problem_in_two_groups_one_of_which_rests(few, lrs: tuple[float, float]) -> None:
    """With fresh gradients at each step only the group with a learning rate moves, and it goes down."""
    params = [nn.Parameter(torch.full((3, 4), 1.0 + i)) for i in range(2)]
    before = [p.detach().clone() for p in params]
    optimizer = few([{"params": [p], "lr": lr} for p, lr in zip(params, lrs, strict=True)])
    for _ in range(10):
        optimizer.zero_grad()
        torch.stack([(p**2).sum() for p in params]).sum().backward()
        optimizer.step()
    for p, old, lr in zip(params, before, lrs, strict=True):
        assert torch.equal(p, old) if lr == 0 else (p.norm() < old.norm())


def matrix() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, 2))


@pytest.mark.parametrize(
    ("params", "settings", "kind", "message"),
    [
        (lambda p, q: p, {}, TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts"),
        (lambda p, q: [{"params": p}, {"params": p}], {}, ValueError, "some parameters appear in more than one parameter group"),
        (lambda p, q: [p], {"lr": torch.tensor([0.001, 0.001])}, ValueError,
         "a Tensor hyper-parameter must have one element, not 2"),
        (lambda p, q: [("weight", p), q], {}, ValueError,
         "all optimizer params should be with/without names. Some param names are missing"),
        (lambda p, q: [{"params": [p], "lr": 1e-2}, {"params": [("weight", q)]}], {}, ValueError,
         "all optimizer param groups should be with/without names. cannot add param group with names to the optimizer"),
        (lambda p, q: [{"params": {p}}], {}, TypeError, "optimizer parameters need to be organized in ordered collections"),
        (lambda p, q: [p * 2], {}, ValueError, "can't optimize a non-leaf Tensor"),
    ],
)  # fmt: skip
def test_errors_of_all_optimizers(few, params, settings: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        few(params(matrix(), matrix()), **settings)


def test_a_repeated_parameter_is_warned_about(few) -> None:
    p = matrix()
    with pytest.warns(UserWarning, match="a parameter group with duplicate parameters"):
        few([p, p])


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable", "differentiable"])
@pytest.mark.parametrize("cls", [AdamW, Lamb, Muon, SophiaG, DCTAdamW])
def test_flags_of_torch_that_we_have_no_use_for_are_refused_by_name(cls, flag: str) -> None:
    """The engine has one path, so these would say nothing."""
    with pytest.raises(TypeError, match=rf"^{cls.__name__} got an unexpected option '{flag}'$"):
        cls([matrix()], **{flag: True})


def test_a_step_is_not_differentiable(few) -> None:
    """Nothing flows through a step, so there is nothing to keep of the graph that a gradient may carry."""
    p = matrix()
    (p.grad,) = torch.autograd.grad((p**3).sum(), p, create_graph=True)
    assert p.grad.requires_grad
    optimizer = few([p])
    optimizer.step()
    assert p.is_leaf and p.grad.requires_grad
    assert not any(v.requires_grad for v in optimizer.state[p].values() if isinstance(v, Tensor))
    p.grad = None


def test_a_fresh_step_with_zero_gradients_moves_nothing(rule) -> None:
    """Without weight decay, and without noise."""
    params = rule.parameters()
    optimizer = rule(params)
    if {"noise_eta", "program"} & set(optimizer.param_groups[0]):
        pytest.skip("adds noise to the gradient, or decays weights in its program")
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    before = [p.detach().clone() for p in params]
    for _ in range(2):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(map(torch.equal, params, before))


def test_a_deep_copy_has_all_attributes(few, train) -> None:
    params = few.parameters()
    optimizer = few(params)
    train(optimizer, params, 0, 1)
    names = {name for name in dir(optimizer) if not name.startswith("_")}
    twin = copy.deepcopy(optimizer)
    assert {name for name in dir(twin) if not name.startswith("_")} == names
    assert optimizer.defaults.items() <= twin.defaults.items()
    assert twin.param_groups[0]["params"][0] is not params[0]


def test_steps_under_inference_mode_and_no_grad_are_the_same(few, train, same) -> None:
    ends = []
    for context in (torch.no_grad, torch.enable_grad):
        params = few.parameters()
        optimizer = few(params)
        with context():
            train(optimizer, params, 0, 3)
        ends.append(params)
    assert same(*ends)


def test_a_state_dict_is_the_same_each_time_and_shares_its_tensors(few, train) -> None:
    params = few.parameters()
    optimizer = few(params)
    train(optimizer, params, 0, 2)
    one, two = optimizer.state_dict(), optimizer.state_dict()
    assert one["param_groups"] == two["param_groups"] and one["state"].keys() == two["state"].keys()
    for number, state in one["state"].items():
        for key, value in state.items():
            assert value is two["state"][number][key] or value == two["state"][number][key]


@pytest.mark.parametrize("name", list_optimizers())
def test_every_named_optimizer_can_be_printed_and_trains(name: str) -> None:
    """By its registered name and with its defaults, on a module."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = create(name, model)
    assert type(optimizer).__name__ in repr(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    closure = Closure(model, nn.functional.mse_loss, torch.randn(16, 4), torch.zeros(16, 2))
    losses = [float(optimizer.step(closure)) for _ in range(5)]
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert any(not torch.equal(p, q) for p, q in itertools.zip_longest(model.parameters(), before))
