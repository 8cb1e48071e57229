"""What users expect of every ``torch.optim.Optimizer``, one function an expectation.

Each takes a :class:`~thalweg.testing.subject.Subject`, raises an :class:`AssertionError` that says what was found, and
:class:`~thalweg.testing.subject.NotApplicable` where it has nothing to say. The first line of its docstring is the expectation.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.testing.subject import NotApplicable, Subject, close, copies, gradients, identical, state_tensors, train


def check_goes_down_on_a_quadratic(subject: Subject) -> None:
    """A convex quadratic goes down."""
    params, optimizer = subject.pair()
    before = float(sum((p * p).sum() for p in params))
    for _ in range(30):
        optimizer.zero_grad()
        sum((p * p).sum() for p in params).backward()  # type: ignore[union-attr]
        optimizer.step()
    after = float(sum((p * p).sum() for p in params))
    assert math.isfinite(after) and after < before, f"sum of squares went from {before:.3g} to {after:.3g} in 30 steps"


def check_is_deterministic(subject: Subject) -> None:
    """Two optimizers with the same settings, gradients and ``torch.manual_seed`` do the same."""
    (a, first), (b, second) = subject.pair(), subject.pair()
    train(first, a, 0, 3)
    train(second, b, 0, 3)
    assert identical(a, b), "two runs differ"


def check_closure(subject: Subject) -> None:
    """``step(closure)`` calls it with gradients enabled, returns its loss, and moves as backward and step do."""
    (params, optimizer), (twins, twin) = subject.pair(), subject.pair()
    for step in range(2):

        def closure() -> Tensor:
            assert torch.is_grad_enabled(), "the closure is called without gradients enabled"
            optimizer.zero_grad()
            loss = torch.stack([(p * p).sum() for p in params]).sum()
            loss.backward()
            return loss

        expected = torch.stack([(p * p).sum() for p in twins]).sum()
        twin.zero_grad()
        expected.backward()
        torch.manual_seed(step)
        twin.step()
        torch.manual_seed(step)
        loss = optimizer.step(closure)  # type: ignore[arg-type]
        assert loss is not None and float(loss) == float(expected), f"the closure's loss came back as {loss}"
    assert identical(params, twins), "a step with a closure differs from backward and step"


def check_tensor_lr(subject: Subject) -> None:
    """``lr`` may be a Tensor, and then does what the number does."""
    params, optimizer = subject.pair(lr=0.03125)
    twins = subject.parameters()
    try:
        twin = subject.optimizer(twins, lr=torch.tensor(0.03125))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"lr as a Tensor is refused: {error}") from error
    train(optimizer, params, 0, 3)
    train(twin, twins, 0, 3)
    assert close(params, twins), "lr as a Tensor gives another result than as a number"


def check_learning_rate_of_groups(subject: Subject) -> None:
    """Each parameter group has its own learning rate, and 0 means no motion."""
    params = [nn.Parameter(torch.full((3, i + 2), 1.0 + i)) for i in range(2)]
    optimizer = subject.optimizer([{"params": params[:1], "lr": 0.0}, {"params": params[1:]}])
    before = copies(params)
    train(optimizer, params, 0, 2)
    assert identical(params[:1], before[:1]), "a group with lr 0 moved"
    assert not identical(params[1:], before[1:]), "the other group stood still"


def check_schedulers(subject: Subject) -> None:
    """A scheduler of ``torch.optim.lr_scheduler`` changes the learning rate that steps use."""
    (params, optimizer), (twins, twin) = subject.pair(lr=0.05), subject.pair(lr=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    rates = [group["lr"] for group in twin.param_groups]
    for step in range(4):
        train(optimizer, params, step, step + 1)
        scheduler.step()
        for group, rate in zip(twin.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5**step
        train(twin, twins, step, step + 1)
    assert close(params, twins), "a scheduler gives another result than setting the groups' lr"


def check_maximize(subject: Subject) -> None:
    """``maximize=True`` does what negated gradients do."""
    params, optimizer = subject.option(maximize=True)
    twins, twin = subject.pair()
    train(optimizer, params, 0, 3)
    train(twin, twins, 0, 3, scale=-1.0)
    assert close(params, twins), "maximize=True differs from negated gradients"


def check_gradients_are_not_changed(subject: Subject) -> None:
    """``p.grad`` is the caller's: a step neither changes nor replaces it."""
    params, optimizer = subject.pair()
    for step in range(2):
        for p, gradient in zip(params, gradients(params, step, scale=10.0), strict=True):  # large enough to be clipped
            p.grad = gradient
        kept = [p.grad for p in params]
        before = [p.grad.clone() for p in params]  # type: ignore[union-attr]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, kept, strict=True)), "p.grad was replaced or dropped"
        assert identical([p.grad for p in params], before), "p.grad was changed in place"  # type: ignore[misc]


def check_missing_gradients(subject: Subject) -> None:
    """A parameter without gradient stays as it is, and so do all if none has one."""
    params, optimizer = subject.pair()
    before = copies(params)
    optimizer.step()
    assert identical(params, before), "a step without any gradient moved parameters"
    for p in params[1:]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert identical(params[:1], before[:1]), "the parameter without gradient moved"
    assert not identical(params[1:], before[1:]), "parameters with gradients stood still"


def check_zero_gradients(subject: Subject) -> None:
    """Gradients of zero leave everything finite, zero parameters included."""
    params, optimizer = subject.pair()
    with torch.no_grad():
        params[-1].zero_()
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(p.isfinite().all() for p in params), "a gradient of zero gave NaN or infinity"


def check_empty_parameters(subject: Subject) -> None:
    """Parameters without elements do no harm."""
    params = [*subject.parameters(), nn.Parameter(torch.empty(0, 3))]
    optimizer = subject.optimizer(params)
    before = copies(params)
    train(optimizer, params, 0, 2)
    assert not identical(params[:1], before[:1]), "an empty parameter keeps the others from moving"
    assert all(p.isfinite().all() for p in params), "an empty parameter spoils the others"


def check_scalars(subject: Subject) -> None:
    """A 0-d parameter moves and keeps its shape."""
    if () not in subject.shapes:
        raise NotApplicable("no 0-d shape among the subject's")
    scalar = nn.Parameter(torch.tensor(1.5))
    train(subject.optimizer([scalar]), [scalar], 0, 3)
    assert scalar.shape == () and math.isfinite(scalar.item()) and scalar.item() != 1.5, f"1.5 became {scalar}"


def check_layouts(subject: Subject) -> None:
    """Strided and channels-last parameters, and gradients in another layout, move like contiguous ones."""
    shapes = [s for s in subject.shapes if len(s) in (2, 4)]
    if not shapes:
        raise NotApplicable("no shape of two or four dimensions among the subject's")
    generator = torch.Generator().manual_seed(0)
    dense = [nn.Parameter(torch.randn(s, generator=generator)) for s in shapes]
    strided = []
    for p in dense:
        room = torch.zeros(p.shape[0], 2 * p.shape[1], *p.shape[2:])
        view = room[:, ::2] if p.ndim == 2 else room[:, : p.shape[1]].contiguous(memory_format=torch.channels_last)
        strided.append(nn.Parameter(view.copy_(p.detach())))
    strides = [p.stride() for p in strided]
    train(subject.optimizer(dense), dense, 0, 3)
    train(subject.optimizer(strided), strided, 0, 3)
    assert [p.stride() for p in strided] == strides, "a parameter's layout changed"
    assert close(strided, dense), "parameters in another layout move otherwise"
    one, other = (nn.Parameter(torch.ones(3, 4)) for _ in range(2))
    first, second = subject.optimizer([one]), subject.optimizer([other])
    gradient = torch.arange(12.0).view(4, 3).t()
    one.grad, other.grad = gradient, gradient.contiguous()
    for optimizer in (first, second):
        torch.manual_seed(0)
        optimizer.step()
    assert close([one], [other]), "a transposed gradient is read in the wrong order"


def check_complex_parameters(subject: Subject) -> None:
    """Complex parameters move, or are refused before anything changes."""
    z = nn.Parameter(torch.full((3, 2), 1 + 2j))
    before = copies([z])
    try:
        optimizer = subject.optimizer([z])
        for _ in range(3):
            optimizer.zero_grad()
            z.abs().square().sum().backward()
            optimizer.step()
    except Exception as error:  # packages have error classes of their own
        assert identical([z], before), f"refused ({error}), but only after the parameter had moved"
        return
    assert z.isfinite().all() and not identical([z], before), "a complex parameter stood still or became NaN"
    assert z.abs().sum() < before[0].abs().sum(), "the modulus of a complex parameter went up against its gradient"


def check_sparse_gradients(subject: Subject) -> None:
    """A sparse gradient is used as the dense one would be, or refused before anything changes."""
    weight = nn.Parameter(torch.ones(4, 3))
    before = copies([weight])
    optimizer = subject.optimizer([weight])
    weight.grad = torch.eye(4, 3).to_sparse()
    try:
        optimizer.step()
    except Exception as error:
        assert identical([weight], before), f"refused ({error}), but only after the parameter had moved"
        return
    assert weight.isfinite().all() and not identical([weight], before), "a sparse gradient moved nothing"


def check_nan_gradients(subject: Subject) -> None:
    """A NaN gradient is seen: it reaches the parameter, stops the step, or raises; it never freezes a parameter for good."""
    weight = nn.Parameter(torch.ones(4, 3))
    optimizer = subject.optimizer([weight])
    weight.grad = torch.full((4, 3), float("nan"))
    try:
        optimizer.step()
    except Exception:
        return
    if weight.isnan().any():
        return
    after = copies([weight])
    for step in range(3):
        weight.grad = torch.ones(4, 3) * (step + 1)
        optimizer.step()
    moved = weight.isnan().any() or (weight.detach() < after[0]).all()
    assert moved, "after one NaN gradient the parameter stays finite but no longer follows its gradients"


def check_frozen_parameters(subject: Subject) -> None:
    """A parameter with ``requires_grad=False`` stays, and has no state."""
    params = subject.parameters()
    params[0].requires_grad_(False)
    before = copies(params)
    optimizer = subject.optimizer(params)
    sum((p * p).sum() for p in params).backward()  # type: ignore[union-attr]
    optimizer.step()
    assert identical(params[:1], before[:1]), "a frozen parameter moved"
    assert not optimizer.state.get(params[0]), "a frozen parameter has state"


def check_tied_parameters(subject: Subject) -> None:
    """A parameter that two modules share moves once a step."""
    one, other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    one.weight = nn.Parameter(torch.eye(3))
    other.weight = one.weight
    alone = nn.Parameter(torch.eye(3))
    optimizer = subject.optimizer(list(nn.ModuleList([one, other]).parameters()))
    twin = subject.optimizer([alone])
    for p, o in ((one.weight, optimizer), (alone, twin)):
        p.grad = torch.ones(3, 3).tril()
        torch.manual_seed(0)
        o.step()
    assert identical([one.weight], [alone]), "a tied parameter moves otherwise than a lone one"


def check_dtypes(subject: Subject) -> None:
    """bfloat16 and float64 parameters keep their dtype, stay finite and go the way of float32."""
    ends = {}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        params = [nn.Parameter(p.detach().to(dtype)) for p in subject.parameters(torch.bfloat16)]
        train(subject.optimizer(params), params, 0, 4)
        assert all(p.dtype is dtype for p in params), f"a {dtype} parameter changed its dtype"
        assert all(p.isfinite().all() for p in params), f"a {dtype} parameter isn't finite"
        ends[dtype] = torch.cat([p.detach().double().flatten() for p in params])
    assert torch.allclose(ends[torch.float32], ends[torch.float64], rtol=0.02, atol=5e-3), "float64 goes another way"
    assert torch.allclose(ends[torch.bfloat16], ends[torch.float64], rtol=0.1, atol=0.1), "bfloat16 goes another way"


def check_added_groups(subject: Subject) -> None:
    """A group added later moves, with the defaults for what it doesn't say."""
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 1)
    later = nn.Parameter(torch.ones(3, 2))
    optimizer.add_param_group({"params": [later]})
    train(optimizer, [*params, later], 1, 3)
    assert not identical([later], [torch.ones(3, 2)]), "the parameter of a later group stood still"


def check_resumes_bit_by_bit(subject: Subject) -> None:
    """A state dict, through ``torch.save`` and ``torch.load(weights_only=True)``, goes on bit by bit."""
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    fresh = subject.optimizer(resumed)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for step in range(3, 6):
        train(optimizer, params, step, step + 1)
        train(fresh, resumed, step, step + 1)
    assert identical(params, resumed), "after loading, steps differ from those of an uninterrupted run"


def check_state_keeps_its_dtype(subject: Subject) -> None:
    """State of bfloat16 parameters has the same dtype after loading as before, and goes on bit by bit."""
    params = subject.parameters(torch.bfloat16)
    optimizer = subject.optimizer(params)
    train(optimizer, params, 0, 2)
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    fresh = subject.optimizer(resumed)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    before = [t.dtype for t in state_tensors(optimizer)]
    after = [t.dtype for t in state_tensors(fresh)]
    assert before == after, f"state dtypes {set(map(str, before))} became {set(map(str, after))} by loading"
    train(optimizer, params, 2, 4)
    train(fresh, resumed, 2, 4)
    assert identical(params, resumed), "after loading, bfloat16 parameters go another way"


def check_loading_copies(subject: Subject) -> None:
    """Steps after loading leave the loaded state dict as it was."""
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 2)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    others = subject.parameters()
    fresh = subject.optimizer(others)
    fresh.load_state_dict(saved)
    train(fresh, others, 2, 4)
    for number, state in before["state"].items():
        for key, value in state.items():
            assert _equal(saved["state"][number][key], value), f"{key} in the loaded dict changed"


def _equal(a: Any, b: Any) -> bool:
    """Whether two values of a state dict, containers too, are the same."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return identical([a], [b])
    return bool(a == b) if isinstance(a, bool | int | float | str) else type(a) is type(b)


def check_state_is_plain(subject: Subject) -> None:
    """State holds tensors and plain values only, so that it goes into safetensors and JSON."""
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 2)

    def foreign(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return any(map(foreign, value))
        if isinstance(value, dict):
            return any(map(foreign, value.values()))
        return not (value is None or isinstance(value, Tensor | bool | int | float | str | torch.dtype))

    for state in optimizer.state_dict()["state"].values():
        for key, value in state.items():
            assert not foreign(value), f"state {key!r} is a {type(value).__name__}"
    for group in optimizer.state_dict()["param_groups"]:
        for key, value in group.items():
            assert not foreign(value), f"group key {key!r} is a {type(value).__name__}"


def check_nothing_kept_outside_state(subject: Subject) -> None:
    """All that a step depends on is in the state dict or in the settings: a fresh optimizer that loads it forgets nothing.

    Steps are made at odd numbers, so that what hangs on a count kept elsewhere comes out.
    """
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 7)
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    fresh = subject.optimizer(resumed)
    train(fresh, resumed, 50, 51)  # a different past
    with torch.no_grad():
        for p, q in zip(resumed, params, strict=True):
            p.copy_(q)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, params, 7, 10)
    train(fresh, resumed, 7, 10)
    assert identical(params, resumed), "an optimizer with another past differs after loading the same state"


def check_copies(subject: Subject) -> None:
    """Deep copies and pickles go on bit by bit."""
    for name, way in (("deepcopy", copy.deepcopy), ("pickle", lambda o: pickle.loads(pickle.dumps(o)))):
        params, optimizer = subject.pair()
        train(optimizer, params, 0, 2)
        for p in params:
            p.grad = None
        places = {id(p): i for i, p in enumerate(params)}
        order = [places[id(p)] for group in optimizer.param_groups for p in group["params"]]
        twin = way(optimizer)
        found = [p for group in twin.param_groups for p in group["params"]]
        twins = [found[order.index(i)] for i in range(len(params))]
        train(optimizer, params, 2, 4)
        train(twin, twins, 2, 4)
        assert identical(params, twins), f"a {name} goes another way"


def check_hooks(subject: Subject) -> None:
    """Step hooks are called, before and after."""
    params, optimizer = subject.pair()
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    train(optimizer, params, 0, 1)
    assert seen == ["pre", "post"], f"hooks were called as {seen}"


def check_grad_scaler(subject: Subject) -> None:
    """``torch.amp.GradScaler`` skips a step with an overflow, and a scaled step equals a plain one."""
    (params, optimizer), (twins, twin) = subject.pair(), subject.pair()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = copies(params)
    scaler.scale(torch.stack([(p * p).sum() for p in params]).sum()).backward()
    params[0].grad.fill_(float("inf"))  # type: ignore[union-attr]
    scaler.step(optimizer)
    scaler.update()
    assert identical(params, before), "a step with an overflow moved parameters"
    for step in range(2):
        optimizer.zero_grad()
        torch.manual_seed(step)
        scaler.scale(torch.stack([(p * p).sum() for p in params]).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        twin.zero_grad()
        torch.stack([(p * p).sum() for p in twins]).sum().backward()
        torch.manual_seed(step)
        twin.step()
    assert close(params, twins), "scaled steps differ from plain ones"


def check_bad_settings(subject: Subject) -> None:
    """A negative or NaN learning rate is refused."""
    for lr in (-1.0, float("nan")):
        try:
            subject.pair(lr=lr)
        except Exception:
            continue
        raise AssertionError(f"lr={lr} is accepted")
