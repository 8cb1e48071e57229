"""What every rule keeps: state dicts, checkpoints, copies and pickles that go on bit by bit."""

from __future__ import annotations

import copy
import io
import json
import pickle
from typing import Any

import pytest
import torch
from torch import nn

from thalweg.optim import SAM, AdamW, Lion, Muon, NorMuon


def through_torch_file(saved: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_safetensors_and_json(saved: dict[str, Any]) -> dict[str, Any]:
    """Tensors through safetensors, everything else through JSON: nothing else may be in there."""
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = {f"{i}.{k}": v for i, s in saved["state"].items() for k, v in s.items() if torch.is_tensor(v)}
    rest = {i: {k: v for k, v in s.items() if not torch.is_tensor(v)} for i, s in saved["state"].items()}
    text = json.dumps({"state": rest, "param_groups": saved["param_groups"]})
    read = safetensors.load(safetensors.save({k: v.contiguous() for k, v in tensors.items()}))
    loaded = json.loads(text)
    state: dict[int, dict[str, Any]] = {int(i): dict(s) for i, s in loaded["state"].items()}
    for key, value in read.items():
        number, name = key.split(".", 1)
        state[int(number)][name] = value
    return {"state": state, "param_groups": loaded["param_groups"]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_loaded_state_goes_on_bit_by_bit(rule, train, same, dtype) -> None:
    params = rule.parameters(dtype)
    optimizer = rule(params)
    train(optimizer, params, 0, 3)
    saved = through_safetensors_and_json(optimizer.state_dict())
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    fresh = rule(resumed)
    fresh.load_state_dict(saved)
    for p, q in zip(params, resumed, strict=True):
        assert set(optimizer.state[p]) == set(fresh.state[q])
        for key, value in optimizer.state[p].items():
            if torch.is_tensor(value):
                kept = torch.float32 if value.is_floating_point() else value.dtype
                assert fresh.state[q][key].dtype is kept  # torch's own loader would cast to the parameter's
                assert torch.equal(fresh.state[q][key], value)
            else:
                assert fresh.state[q][key] == value
    # In turns: neither may see the other's steps.
    for step in range(3, 6):
        train(optimizer, params, step, step + 1)
        train(fresh, resumed, step, step + 1)
    assert same(params, resumed)


def test_settings_come_back_with_the_state(few, train) -> None:
    optimizer = few(params := few.parameters())
    optimizer.param_groups[0].update(lr=0.123, maximize=True)
    train(optimizer, params, 0, 1)
    fresh = few(few.parameters())
    fresh.load_state_dict(through_torch_file(optimizer.state_dict()))
    assert fresh.param_groups[0]["lr"] == 0.123 and fresh.param_groups[0]["maximize"] is True


def test_a_checkpoint_older_than_a_hyperparameter(few, train) -> None:
    optimizer = few(params := few.parameters())
    train(optimizer, params, 0, 1)
    saved = optimizer.state_dict()
    chain = optimizer.rule_of(optimizer.param_groups[0])
    missing = list(chain.hypers)[-1]
    for group in saved["param_groups"]:
        group.pop(missing, None)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0][missing] == chain.hypers[missing]
    train(optimizer, params, 1, 2)


def test_state_in_another_dtype_keeps_it_over_a_checkpoint(train) -> None:
    params = [nn.Parameter(torch.ones(3))]
    optimizer = AdamW(params, state_dtype=torch.bfloat16)
    train(optimizer, params, 0, 1)
    fresh = AdamW([nn.Parameter(torch.ones(3))], state_dtype=torch.bfloat16)
    fresh.load_state_dict(through_torch_file(optimizer.state_dict()))
    assert {v.dtype for s in fresh.state.values() for v in s.values() if torch.is_tensor(v)} == {torch.bfloat16}


def test_wrong_groups_are_refused(train) -> None:
    optimizer = Lion([nn.Parameter(torch.ones(3))])
    saved = Lion([nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]).state_dict()
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize(
    ("given", "into", "message"),
    [
        (
            Muon,
            NorMuon,
            "can't load a group that follows the rule 'muon' into NorMuon, which has normuon, adamw: "
            "load it into the class that it was saved from",
        ),
        (
            Muon,
            Lion,
            "can't load a group that follows the rule 'muon' into Lion, which has one rule without a name: "
            "load it into the class that it was saved from",
        ),
        (
            Lion,
            AdamW,
            "can't load a state without exp_avg_sq, step into AdamW: load it into the class that it was saved from, "
            "or start anew with its groups alone, 'state': {}",
        ),
        (
            torch.optim.Adam,
            Muon,
            "can't load a state without momentum_buffer into Muon: load it into the class that it was saved from, "
            "or start anew with its groups alone, 'state': {}",
        ),
    ],
)
def test_another_optimizers_state_is_refused_and_nothing_changes(given, into, message: str, train) -> None:
    params, others = ([nn.Parameter(torch.ones(3, 2))] for _ in range(2))
    other, optimizer = given(others), into(params)
    train(other, others, 0, 1)
    train(optimizer, params, 0, 1)
    before = copy.deepcopy(optimizer.state_dict())
    for around in (optimizer, SAM(params, base=lambda p, **_: into(p))):
        with pytest.raises(ValueError) as caught:
            around.load_state_dict(other.state_dict())
        assert str(caught.value) == message
    assert str(optimizer.state_dict()) == str(before)
    train(optimizer, params, 1, 2)
    optimizer.load_state_dict({"state": {}, "param_groups": optimizer.state_dict()["param_groups"]})
    assert not optimizer.state


def test_a_state_that_some_parameters_lack(few, train, same) -> None:
    params, twins = few.parameters(), few.parameters()
    optimizer, twin = few(params), few(twins)
    for p in params[1:]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p)
    saved = optimizer.state_dict()
    first = next(i for g, s in zip(optimizer.param_groups, saved["param_groups"], strict=True)
                 for p, i in zip(g["params"], s["params"], strict=True) if p is params[0])  # fmt: skip
    saved["state"][first] = {}  # as some tools write it
    twin.load_state_dict(saved)
    train(optimizer, params, 1, 3)
    train(twin, twins, 1, 3)
    assert same(params, twins)


def test_states_of_torchs_classes_and_back(train) -> None:
    """The same names mean the same; groups that name no rule follow the rule that they had here."""
    for ours, theirs in ((AdamW, torch.optim.AdamW), (Muon, torch.optim.Muon)):
        params, others = ([nn.Parameter(torch.ones(3, 2))] for _ in range(2))
        optimizer, other = ours(params), theirs(others)
        train(other, others, 0, 2)
        optimizer.load_state_dict(other.state_dict())
        assert (
            "adjust_lr_fn" not in optimizer.param_groups[0]
            or optimizer.param_groups[0].update(adjust_lr_fn="original") is None
        )
        train(optimizer, params, 2, 3)
        other.load_state_dict(optimizer.state_dict())
        train(other, others, 3, 4)
    vector, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer, theirs = Muon([vector]), torch.optim.AdamW([other])
    train(theirs, [other], 0, 2)
    optimizer.load_state_dict(theirs.state_dict())
    assert optimizer.param_groups[0]["rule"] == "adamw"
    train(optimizer, [vector], 2, 3)
    assert optimizer.state[vector]["step"] == 3


def test_a_state_without_steps_where_only_rounding_counts_them(train) -> None:
    params = [nn.Parameter(torch.ones(3, dtype=torch.bfloat16))]
    optimizer = Lion(params)
    train(optimizer, params, 0, 2)
    rounding = Lion(params, stochastic_rounding=True)
    rounding.load_state_dict(optimizer.state_dict())
    train(rounding, params, 2, 3)
    assert rounding.state[params[0]]["step"] == 1


def test_numbers_of_numpy_become_pythons(train, same) -> None:
    numpy = pytest.importorskip("numpy")
    ends = []
    for real, whole in ((float, int), (numpy.float32, numpy.int64), (numpy.float64, numpy.int8)):
        params = [nn.Parameter(torch.ones(3, 2))]
        optimizer = Muon(
            [{"params": params, "weight_decay": real(0.5)}],
            lr=real(0.25),
            momentum=real(0.75),
            ns_steps=whole(3),
            rest_betas=(real(0.5), real(0.25)),
        )
        group = through_torch_file(optimizer.state_dict())["param_groups"][
            0
        ]  # holds nothing but Python's own and tensors
        assert (group["lr"], group["weight_decay"], group["momentum"], group["ns_steps"]) == (0.25, 0.5, 0.75, 3)
        group = optimizer.param_groups[0]
        group["lr"] = real(0.125)  # a schedule's
        train(optimizer, params, 0, 2)
        ends.append(params)
    assert same(ends[0], ends[1]) and same(ends[0], ends[2])
    with pytest.raises(ValueError, match=r"^Invalid lr: .*nan.* \(must be a number >= 0\)$"):
        AdamW(params, lr=numpy.float32("nan"))


@pytest.mark.parametrize("way", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_go_on_bit_by_bit(rule, train, same, way) -> None:
    params = rule.parameters()
    optimizer = rule(params, nonfinite="skip")
    train(optimizer, params, 0, 3)
    for p in params:
        p.grad = None
    # A copy has parameters of its own, in the order of the groups.
    order = [next(i for i, p in enumerate(params) if p is q) for g in optimizer.param_groups for q in g["params"]]
    twin = way(optimizer)
    twins = [None] * len(params)
    for i, q in zip(order, (q for g in twin.param_groups for q in g["params"]), strict=True):
        twins[i] = q
    assert type(twin) is type(optimizer) and repr(twin) == repr(optimizer)
    for step in range(3, 6):
        train(optimizer, params, step, step + 1)
        train(twin, twins, step, step + 1)
    assert same(params, twins)


def test_a_step_of_nothing_before_loading_as_checkpoint_tools_do(rule, train, same) -> None:
    """``torch.distributed.checkpoint`` makes state by a step with lr 0 and zero gradients: it must change no parameter."""
    params = rule.parameters()
    optimizer = rule(params, lr=0.0)
    start = [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same(params, start)
