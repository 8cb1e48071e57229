"""What every rule does, whatever its idea: the conventions of ``torch.optim`` and of the engine."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.optim import SGD, AdamW, Lion, optimizer_state_bytes


def test_tensor_lr_may_change_in_place(few, train, same) -> None:
    params, twins = few.parameters(), few.parameters()
    lr = torch.tensor(0.25)
    optimizer, twin = few(params, lr=lr), few(twins, lr=0.25)
    train(optimizer, params, 0, 2)
    train(twin, twins, 0, 2)
    lr.fill_(0.125)
    for group in twin.param_groups:
        group["lr"] = 0.125 if group["lr"] == 0.25 else group["lr"]
    train(optimizer, params, 2, 4)
    train(twin, twins, 2, 4)
    assert same(params, twins)


def test_closed_form_of_decoupled_decay_by_group(rule) -> None:
    if not rule.decoupled:
        pytest.skip("the chain decays the weights by itself")
    params = [p for p in rule.parameters(torch.float64) if p.ndim >= 2]
    start = [p.detach().clone() for p in params]
    groups = [{"params": [params[0]], "weight_decay": 0.5}, {"params": [params[1]], "weight_decay": 0.0}]
    optimizer = rule(groups, lr=0.1)
    if any("noise_eta" in group for group in optimizer.param_groups):
        for group in optimizer.param_groups:
            group["noise_eta"] = 0.0
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(params[0].data, 0.95 * start[0], rtol=1e-15, atol=0)
    assert torch.equal(params[1].data, start[1])


def test_decay_before_and_after_the_step() -> None:
    for decay, expected in (("before", 0.9 * 2.0 - 0.1), ("after", 0.9 * (2.0 - 0.1))):
        p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        optimizer = SGD([p], lr=0.1, momentum=0.0, weight_decay=1.0, decay=decay)
        p.grad = torch.ones_like(p)
        optimizer.step()
        torch.testing.assert_close(p.item(), expected, rtol=1e-15, atol=0)


def test_state_bytes(rule, train) -> None:
    params = rule.parameters()
    optimizer = rule(params)
    assert optimizer_state_bytes(optimizer) == 0
    train(optimizer, params, 0, 1)
    tensors = [v for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]
    assert optimizer_state_bytes(optimizer) == sum(t.numel() * t.element_size() for t in tensors)
    words = [rule.words(p, group) for group in optimizer.param_groups for p in group["params"]]
    assert optimizer_state_bytes(optimizer) == 4 * sum(words)


def test_state_bytes_counts_shared_storage_once() -> None:
    whole = torch.zeros(10)
    optimizer = SGD([nn.Parameter(torch.zeros(1))])
    optimizer.state[optimizer.param_groups[0]["params"][0]] = {"a": whole[:5], "b": [whole[5:]], "step": 3}
    assert optimizer_state_bytes(optimizer) == 40


def test_a_module_leaves_vectors_undecayed() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    for cls in (AdamW, SGD, Lion):
        decays = {
            name: group["weight_decay"]
            for group in cls(model, weight_decay=0.1).param_groups
            for name in group["param_names"]
        }
        assert decays == {"0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0}


def test_a_module_can_be_extended(few, train) -> None:
    model = nn.Linear(3, 4, bias=not few.matrices_only)
    optimizer = few(model)
    later = nn.Parameter(torch.ones(2, 2))
    optimizer.add_param_group({"params": [("later", later)], "lr": 0.5})
    params = [*model.parameters(), later]
    train(optimizer, params, 0, 1)
    assert optimizer.param_groups[-1]["lr"] == 0.5
    assert not torch.equal(later.data, torch.ones(2, 2))


def test_later_groups_count_their_own_steps(rule, train, same) -> None:
    """A group added after 3 steps moves as if it had been alone from the start, apart from its random stream."""
    if any("noise_eta" in g for g in rule(rule.parameters()).param_groups):
        pytest.skip("noise depends on the parameter's number")
    if rule.whole_optimizer:
        pytest.skip("groups are not independent")
    first, later, alone = rule.parameters(), rule.parameters(seed=1), rule.parameters(seed=1)
    optimizer = rule(first)
    train(optimizer, first, 0, 3)
    groups = rule(alone).param_groups
    for group in groups:
        members = [later[next(i for i, p in enumerate(alone) if p is q)] for q in group["params"]]
        optimizer.add_param_group({**{k: v for k, v in group.items() if k != "params"}, "params": members})
    train(optimizer, later, 10, 13)
    train(rule(alone), alone, 10, 13)
    assert same(later, alone)


def test_the_callers_group_is_left_alone(few) -> None:
    params = few.parameters()
    group = {"params": [p for p in params if p.ndim >= 2], "lr": 0.5}
    optimizer = few([group])
    assert set(group) == {"params", "lr"}
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_foreign_keys_are_kept(few, train) -> None:
    params = [p for p in few.parameters() if p.ndim >= 2]
    optimizer = few([{"params": params, "lr_scale": 0.5, "note": "mine", "table": torch.arange(3)}])
    train(optimizer, params, 0, 1)
    group = optimizer.param_groups[0]
    assert group["lr_scale"] == 0.5 and group["note"] == "mine" and group["table"].tolist() == [0, 1, 2]
    assert optimizer.state_dict()["param_groups"][0]["note"] == "mine"


def test_repr_names_the_rules(few) -> None:
    text = repr(few(few.parameters()))
    assert "rules:" in text and "options:" in text and "lr:" in text
