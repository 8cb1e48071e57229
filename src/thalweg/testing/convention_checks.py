"""Conventions that ``torch.optim`` keeps around the step: forms of parameters, groups, names, hooks, loading, dtypes.

Functions as in :mod:`thalweg.testing.optimizer_checks`. What is checked follows what torch's own test suite asks of its optimizers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer

from thalweg.testing.subject import NotApplicable, Subject, close, copies, identical, state_tensors, train


def _matrices(count: int = 2) -> list[nn.Parameter]:
    """Parameters that every rule takes, in groups too."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(3, 2 + place, generator=generator)) for place in range(count)]


def _refused(act: Callable[[], Any]) -> bool:
    """Whether something raises; packages have error classes of their own."""
    try:
        act()
    except Exception:
        return True
    return False


def check_parameter_forms(subject: Subject) -> None:
    """Parameters may come as a list, a generator, with names, in a group, and in one group each: the steps are the same."""
    forms: dict[str, Callable[[list[nn.Parameter]], Any]] = {
        "generator": lambda params: (p for p in params),
        "named": lambda params: [(f"weight{place}", p) for place, p in enumerate(params)],
        "named group": lambda params: [{"params": [(f"weight{place}", p) for place, p in enumerate(params)]}],
        "groups": lambda params: [{"params": [p]} for p in params],
    }
    expected = _matrices()
    train(subject.optimizer(expected), expected, 0, 2)
    for name, form in forms.items():
        params = _matrices()
        train(subject.optimizer(form(params)), params, 0, 2)
        assert close(params, expected), f"parameters given as {name} move otherwise than as a list"


def check_wrong_parameters(subject: Subject) -> None:
    """Nothing, a lone tensor, a set, a number, a tensor with a history and a parameter in two groups are refused."""
    weight = _matrices(1)[0]
    wrong: dict[str, Any] = {
        "an empty list": [],
        "a lone tensor": weight,
        "a set in a group": [{"params": {weight}}],
        "a number": [3],
        "a tensor that was computed": [weight * 2],
        "a parameter in two groups": [{"params": [weight]}, {"params": [weight]}],
    }
    for name, params in wrong.items():
        assert _refused(partial(subject.optimizer, params)), f"{name} is accepted"


def check_wrong_groups(subject: Subject) -> None:
    """A later group that isn't a dict, or holds a parameter that is there already, is refused and leaves no trace."""
    params = _matrices()
    optimizer = subject.optimizer(params)
    count = len(optimizer.param_groups)
    groups: dict[str, Any] = {"a list": [nn.Parameter(torch.ones(3, 2))], "a known one": {"params": params[:1]}}
    for name, group in groups.items():
        assert _refused(partial(optimizer.add_param_group, group)), f"{name} is accepted as a group"
        assert len(optimizer.param_groups) == count, f"{name} was refused, but the group has stayed"


def check_repeated_parameters(subject: Subject) -> None:
    """A parameter that is twice in one group is warned about or refused."""
    weight = _matrices(1)[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refused = _refused(lambda: subject.optimizer([weight, weight]))
    assert refused or caught, "a parameter given twice is taken twice without a word"


def check_parameter_names(subject: Subject) -> None:
    """Names are kept in groups and state dicts; state dicts with names load where there are none, and the other way round."""
    named, plain = _matrices(), _matrices()
    first = subject.optimizer([(f"weight{place}", p) for place, p in enumerate(named)])
    second = subject.optimizer(plain)
    found = [name for group in first.state_dict()["param_groups"] for name in group.get("param_names", [])]
    assert sorted(found) == ["weight0", "weight1"], f"the state dict has the names {found}"
    train(first, named, 0, 2)
    train(second, plain, 0, 2)
    for source, target, params in ((first, second, plain), (second, first, named)):
        target.load_state_dict(copy.deepcopy(source.state_dict()))
        train(target, params, 2, 3)
    kept = [name for group in first.param_groups for name in group.get("param_names", [])]
    assert sorted(kept) == ["weight0", "weight1"], f"after loading a state dict without names they are {kept}"


def check_other_groups_in_a_state_dict(subject: Subject) -> None:
    """A state dict with other groups is refused and changes nothing."""
    params = _matrices()
    optimizer = subject.optimizer(params)
    train(optimizer, params, 0, 2)
    before = [t.clone() for t in state_tensors(optimizer)]
    more, apart = _matrices(3), _matrices()
    for name, other in {
        "more parameters": subject.optimizer(more),
        "more groups": subject.optimizer([{"params": [p]} for p in apart]),
    }.items():
        saved = other.state_dict()
        assert _refused(partial(optimizer.load_state_dict, saved)), f"a state dict of {name} is accepted"
    assert identical(state_tensors(optimizer), before), "a state dict that was refused has changed the state"


def check_step_counts(subject: Subject) -> None:
    """Step counts load as numbers and as tensors."""
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    if not any("step" in state for state in saved["state"].values()):
        raise NotApplicable("keeps no count named step")
    expected = copies(params)
    train(optimizer, params, 2, 4)
    for kind in (float, lambda count: torch.tensor(float(count))):
        twins = [nn.Parameter(p.clone()) for p in expected]
        fresh = subject.optimizer(twins)
        given = copy.deepcopy(saved)
        for state in given["state"].values():
            if "step" in state:
                state["step"] = kind(state["step"])
        fresh.load_state_dict(given)
        train(fresh, twins, 2, 4)
        assert close(twins, params), f"a step count saved as {type(kind(1)).__name__} goes on otherwise"


def check_state_dict_hooks(subject: Subject) -> None:
    """Hooks of ``state_dict`` and ``load_state_dict`` are called, before and after, and may replace what is saved."""
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 1)
    seen: list[str] = []

    def note(word: str) -> Callable[..., None]:
        return lambda *_: seen.append(word)

    optimizer.register_state_dict_pre_hook(note("saving"))
    optimizer.register_state_dict_post_hook(lambda _, saved: {**saved, "note": 1})
    optimizer.register_load_state_dict_pre_hook(note("loading"))
    optimizer.register_load_state_dict_post_hook(note("loaded"))
    saved = optimizer.state_dict()
    assert saved.get("note") == 1, "what a state_dict hook returns is not used"
    optimizer.load_state_dict(saved)
    assert seen == ["saving", "loading", "loaded"], f"hooks were called as {seen}"


def check_global_hooks(subject: Subject) -> None:
    """Hooks for the steps of all optimizers are called, before and after."""
    params, optimizer = subject.pair()
    seen: list[str] = []
    handles = [
        torch_optimizer.register_optimizer_step_pre_hook(lambda *_: seen.append("pre")),
        torch_optimizer.register_optimizer_step_post_hook(lambda *_: seen.append("post")),
    ]
    try:
        train(optimizer, params, 0, 1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen[:1] == ["pre"] and seen[-1:] == ["post"], f"hooks were called as {seen}"


def check_zero_grad(subject: Subject) -> None:
    """``zero_grad`` drops gradients, or zeroes them in place, and touches nothing else."""
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 1)
    before, kept = copies(params), [p.grad for p in params]
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is g for p, g in zip(params, kept, strict=True)), (
        "zero_grad(set_to_none=False) replaces gradients"
    )
    assert not any(bool(g.any()) for g in kept if g is not None), "zero_grad(set_to_none=False) leaves gradients"
    optimizer.zero_grad()
    assert all(p.grad is None for p in params) and identical(params, before), "zero_grad() leaves gradients, or moves"


def check_weight_decay_of_groups(subject: Subject) -> None:
    """Each group has its own weight decay: 0 in one leaves it as it would be with 0 in all."""
    params = _matrices()
    optimizer = subject.optimizer(params)
    if "weight_decay" not in optimizer.param_groups[0]:
        raise NotApplicable("has no weight_decay")
    ends = []
    for decays in ((0.5, 0.0), (0.0, 0.0)):
        params = _matrices()
        groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(params, decays, strict=True)]
        train(subject.optimizer(groups), params, 0, 3)
        ends.append(params)
    (decayed, spared), (plain, other) = ends
    assert close([spared], [other]), "one group's weight decay reaches another group"
    assert not close([decayed], [plain], rtol=1e-6, atol=1e-7), "a group's weight decay does nothing"


def check_default_dtype(subject: Subject) -> None:
    """float32 parameters move alike, and stay float32, whatever torch's default dtype is."""
    params, optimizer = subject.pair()
    train(optimizer, params, 0, 3)
    with _default_dtype(torch.float64):
        twins, twin = subject.pair()
        train(twin, twins, 0, 3)
    assert all(p.dtype is torch.float32 for p in twins), "parameters took the default dtype"
    assert close(twins, params), "another default dtype leads another way"


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_mixed_dtypes(subject: Subject) -> None:
    """Parameters of several dtypes may share a group; they move as in one dtype, and keep theirs."""
    expected = [nn.Parameter(p.detach().double()) for p in _matrices(3)]
    params = [nn.Parameter(p.detach().to(t)) for p, t in zip(expected, (torch.float32, torch.float64), strict=False)]
    params.append(nn.Parameter(expected[2].detach().to(torch.bfloat16)))
    before = [p.dtype for p in params]
    train(subject.optimizer(params), params, 0, 3)
    train(subject.optimizer(expected), expected, 0, 3)
    assert [p.dtype for p in params] == before, "a parameter in mixed company changed its dtype"
    assert close(params[:2], [p.to(q.dtype) for p, q in zip(expected[:2], params[:2], strict=True)], 0.02, 5e-3), (
        "parameters in mixed company go another way"
    )


def check_no_graph(subject: Subject) -> None:
    """A step records nothing for autograd: parameters stay leaves, and state needs no gradient."""
    params, optimizer = subject.pair()
    with torch.enable_grad():
        train(optimizer, params, 0, 2)
    assert all(p.is_leaf and p.requires_grad for p in params), "a parameter is no leaf any more"
    assert not any(t.requires_grad for t in state_tensors(optimizer)), "a state tensor needs gradients"


def check_tensor_lr_is_left_alone(subject: Subject) -> None:
    """A step leaves the Tensor ``lr`` as it is, a later change of it is seen, and one of two elements is refused."""
    lr = torch.tensor(0.03125)
    params = subject.parameters()
    try:
        optimizer = subject.optimizer(params, lr=lr)
    except (TypeError, ValueError) as error:
        raise NotApplicable("takes no Tensor lr") from error
    train(optimizer, params, 0, 2)
    assert lr.item() == 0.03125, f"the caller's lr became {lr.item()}"
    before = copies(params)
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].zero_()
        else:
            group["lr"] = 0.0
    train(optimizer, params, 2, 3)
    assert close(params, before, 0, 1e-7), "with a Tensor lr set to 0, parameters move on"
    assert _refused(lambda: subject.pair(lr=torch.tensor([0.1, 0.1]))), "an lr of two elements is accepted"


def check_printing(subject: Subject) -> None:
    """Printing shows the class, and every group's learning rate."""
    optimizer = subject.optimizer([{"params": [p], "lr": 0.125 * 2**-i} for i, p in enumerate(_matrices())])
    shown = repr(optimizer)
    assert type(optimizer).__name__ in shown, "the class isn't shown"
    assert "0.125" in shown and "0.0625" in shown, "the groups' learning rates aren't shown"
