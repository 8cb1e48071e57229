"""What every rule refuses, with which words; and what non-finite gradients do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thalweg.optim import (
    SGD,
    AdamW,
    Chained,
    Lamb,
    Lars,
    Lion,
    Muon,
    SophiaG,
    SophiaH,
    add_decayed_weights,
    gradient_noise,
    lion_direction,
    momentum,
    trust_ratio,
)


def weight() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, 2))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(weight(), lr=-1.0), "Invalid lr: -1.0 (must be a number >= 0)"),
        (lambda: AdamW(weight(), lr=float("nan")), "Invalid lr: nan (must be a number >= 0)"),
        (lambda: AdamW(weight(), lr=torch.tensor(-1.0)), "Invalid lr: tensor(-1.) (must be a number >= 0)"),
        (lambda: AdamW(weight(), lr="big"), "Invalid lr: 'big' (must be a number >= 0)"),
        (lambda: AdamW(weight(), lr=torch.ones(2)), "a Tensor hyper-parameter must have one element, not 2"),
        (lambda: AdamW(weight(), betas=(0.9, 1.0)), "Invalid betas: (0.9, 1.0) (must be a tuple of numbers in [0, 1))"),
        (lambda: AdamW(weight(), betas=(0.9,)), "Invalid betas: (0.9,) (must be 2 numbers)"),
        (lambda: Lion(weight(), betas=0.9), "Invalid betas: 0.9 (must be a tuple of numbers in [0, 1))"),
        (lambda: Lion(weight(), betas=(-0.1, 0.9)), "Invalid betas: (-0.1, 0.9) (must be a tuple of numbers in [0, 1))"),
        (lambda: Lion([{"params": weight(), "betas": (0.9, 0.9, 0.9)}]), "Invalid betas: (0.9, 0.9, 0.9) (must be 2 numbers)"),
        (lambda: AdamW(weight(), eps=-1e-8), "Invalid eps: -1e-08 (must be a number >= 0)"),
        (lambda: AdamW(weight(), weight_decay=-0.1), "Invalid weight_decay: -0.1 (must be a number >= 0)"),
        (lambda: AdamW([{"params": weight(), "weight_decay": -0.1}]), "Invalid weight_decay: -0.1 (must be a number >= 0)"),
        (lambda: SGD(weight(), momentum=1.0), "Invalid momentum: 1.0 (must be in [0, 1))"),
        (lambda: Lamb(weight(), clamp_norm=(2.0, 1.0)),
         "Invalid clamp_norm: (2.0, 1.0) (must be None or (low, high) with 0 <= low <= high)"),
        (lambda: Lamb(weight(), clamp_norm=5), "Invalid clamp_norm: 5 (must be None or (low, high) with 0 <= low <= high)"),
        (lambda: Lars(weight(), trust_coefficient=0.0), "Invalid trust_coefficient: 0.0 (must be a number > 0)"),
        (lambda: Lars(weight(), variant="mine"), "unknown variant 'mine' (choose from lars2017, lamb-paper)"),
        (lambda: Lars(weight(), variant="lamb-paper", nesterov=True), "nesterov belongs to variant 'lars2017'"),
        (lambda: Muon(weight(), ns_steps=0), "Invalid ns_steps: 0 (must be a whole number from 1 to 99)"),
        (lambda: Muon(weight(), ns_steps=100), "Invalid ns_steps: 100 (must be a whole number from 1 to 99)"),
        (lambda: Lars(weight(), variant="lamb-paper", trust_coefficient=0.5), "trust_coefficient belongs to variant 'lars2017'"),
        (lambda: Lars(weight(), variant="lamb-paper", eps=0.1), "eps belongs to variant 'lars2017'"),
        (lambda: SophiaG([{"params": weight(), "rho": 0.0}]), "Invalid rho: 0.0 (must be a number > 0)"),
        (lambda: SophiaG(weight(), likelihood="foo"), "unknown likelihood 'foo' (choose from categorical, bernoulli, gaussian)"),
        (lambda: SophiaG(weight(), seed=0.5), "Invalid seed: 0.5 (must be a whole number)"),
        (lambda: SophiaH(weight(), probes="foo"), "probes must be 'rademacher' or 'normal', not 'foo'"),
        (lambda: SophiaH(weight(), samples=0), "samples must be a whole number >= 1, not 0"),
        (lambda: SophiaH(weight(), samples=1.5), "samples must be a whole number >= 1, not 1.5"),
        (lambda: Muon(weight(), ns_dtype=torch.float16),
         "ns_dtype can't be float16: squares of gradients leave its range (choose from float32, float64, bfloat16)"),
        (lambda: Muon(weight(), ns_dtype="int8"), "unknown ns_dtype 'int8' (choose from float32, float64, bfloat16)"),
        (lambda: Muon(weight(), adjust_lr_fn="big"),
         "unknown adjust_lr_fn 'big' (choose from original, match_rms_adamw, spectral, none)"),
        (lambda: Muon(weight(), ns_coefficients="cubic"),
         "unknown coefficients 'cubic' (choose from quintic, polar_express, or give triples)"),
        (lambda: Muon(weight(), ns_coefficients=(1.0, 2.0)), "coefficients must be triples (a, b, c), not (1.0, 2.0)"),
        (lambda: Muon([{"params": weight(), "rule": "lion"}]),
         "unknown rule 'lion' in a parameter group (choose from muon, adamw)"),
        (lambda: gradient_noise(eta=-1.0), "Invalid eta: -1.0 (must be a number >= 0)"),
        (lambda: gradient_noise(gamma=-1.0), "Invalid gamma: -1.0 (must be a number >= 0)"),
        (lambda: gradient_noise(seed=0.5), "Invalid seed: 0.5 (must be a whole number)"),
        (lambda: AdamW([{"params": weight(), "noise_eta": -1.0}], before=gradient_noise()),
         "Invalid noise_eta: -1.0 (must be a number >= 0)"),
        (lambda: AdamW(weight(), nonfinite="ignore"), "Invalid nonfinite: 'ignore' (choose from propagate, skip, raise)"),
        (lambda: AdamW(weight(), decay="never"), "Invalid decay: 'never' (choose from before, after)"),
        (lambda: AdamW(weight(), compile="yes"), "compile must be None, True or False, not 'yes'"),
        (lambda: AdamW(weight(), state_dtype=torch.int8),
         "Invalid state_dtype: torch.int8 (must be None or a floating-point dtype, as torch.float32)"),
        (lambda: AdamW(weight(), state_dtype="bfloat16"),
         "Invalid state_dtype: 'bfloat16' (must be None or a floating-point dtype, as torch.float32)"),
        (lambda: AdamW(weight(), maximize="yes"), "Invalid maximize: 'yes' (must be True or False)"),
        (lambda: AdamW([{"params": weight(), "maximize": None}]), "Invalid maximize: None (must be True or False)"),
        (lambda: AdamW(weight(), stochastic_rounding="no"), "Invalid stochastic_rounding: 'no' (must be True or False)"),
        (lambda: AdamW([]), "optimizer got an empty parameter list"),
        (lambda: AdamW(nn.ReLU()), "optimizer got an empty parameter list"),
        (lambda: Muon([]), "optimizer got an empty parameter list"),
        (lambda: AdamW(weight(), before=add_decayed_weights()),
         "the chain decays the weights by itself: set weight_decay=0 here, or rename its own, "
         "as in add_decayed_weights(...).rename(weight_decay='l2')"),
        (lambda: Chained(weight(), add_decayed_weights() >> momentum(), weight_decay=0.1),
         "the chain decays the weights by itself: set weight_decay=0 here, or rename its own, "
         "as in add_decayed_weights(...).rename(weight_decay='l2')"),
        (lambda: Lamb(weight(), decay="after"),
         "decay='after' is for decoupled weight decay, but this chain decays the weights by itself"),
    ],
)  # fmt: skip
def test_values_out_of_range(make, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(weight(), foreach=True), "AdamW got an unexpected option 'foreach'"),
        (lambda: Lion(weight(), fused=True), "Lion got an unexpected option 'fused'"),
        (lambda: AdamW(nn.Parameter(torch.ones(2, 2))), "params argument given to the optimizer should be an iterable"),
        (lambda: Muon(nn.Parameter(torch.ones(2, 2))), "params argument given to the optimizer should be an iterable"),
        (lambda: lion_direction(beta=0.9), "lion_direction() has no hyper-parameter 'beta' (it has: betas)"),
        (lambda: Chained(weight(), momentum), "momentum must be called: write momentum()"),
        (lambda: Chained(weight(), "lion"), "a chain is made of transforms, not str"),
        (lambda: momentum() >> 3, "a chain is made of transforms, not int"),
        (lambda: AdamW(weight()).add_param_group([nn.Parameter(torch.ones(1))]), "param_group must be a dict"),
        (lambda: AdamW(weight()).add_param_group({"params": [3]}), "optimizer can only optimize Tensors"),
    ],
)
def test_wrong_types(make, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value).startswith(message)


def test_a_refused_group_leaves_the_optimizer_as_it_was(few) -> None:
    optimizer = few(few.parameters())
    before = len(optimizer.param_groups)
    with pytest.raises(ValueError, match="Invalid lr"):
        optimizer.add_param_group({"params": weight(), "lr": -1.0})
    assert len(optimizer.param_groups) == before


def test_sparse_gradients_are_refused_before_anything_changes(few, train, same) -> None:
    params = few.parameters()
    optimizer = few(params)
    train(optimizer, params, 0, 1)
    before, state = copy.deepcopy(params), copy.deepcopy(optimizer.state_dict())
    table = nn.Embedding(5, 3, sparse=True)
    optimizer.add_param_group({"params": list(table.parameters())})
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        f"{type(optimizer).__name__} does not support sparse gradients (make the embedding dense)"
    )
    assert same(params, before)
    assert str(optimizer.state_dict()["state"]) == str(state["state"])


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_nonfinite_gradients_reach_the_parameter(rule, train, bad: float) -> None:
    params = rule.parameters()
    optimizer = rule(params)
    train(optimizer, params, 0, 1)
    for p in params:
        p.grad = torch.ones_like(p)
    params[0].grad[1, 1] = bad
    optimizer.step()
    assert not params[0][1, 1].isfinite()
    if not (rule.whole_tensor or rule.whole_optimizer):
        assert params[0].isfinite().sum() == params[0].numel() - 1
    if not rule.whole_optimizer:
        assert all(p.isfinite().all() for p in params[1:])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonfinite_skip_changes_nothing(few, train, same, bad: float) -> None:
    params = few.parameters()
    optimizer = few(params, nonfinite="skip")
    train(optimizer, params, 0, 2)
    before, state = copy.deepcopy(params), copy.deepcopy(optimizer.state_dict())
    params[-1].grad.view(-1)[0] = bad
    assert optimizer.step(lambda: 3.5) == 3.5
    assert same(params, before)
    after = optimizer.state_dict()["state"]
    assert all(
        torch.equal(torch.as_tensor(after[i][k]), torch.as_tensor(v))
        for i, s in state["state"].items()
        for k, v in s.items()
    )
    train(optimizer, params, 2, 3)
    assert not same(params[:1], before[:1])


def test_nonfinite_raise_names_the_parameter(few) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=not few.matrices_only), nn.Linear(3, 3, bias=not few.matrices_only))
    optimizer = few(model, nonfinite="raise")
    start = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model[1].weight.grad[0, 0] = float("nan")
    with pytest.raises(FloatingPointError) as caught:
        optimizer.step()
    assert str(caught.value) == "the gradient of parameter 1.weight is not finite"
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), start, strict=True)) and not optimizer.state


def test_nonfinite_raise_counts_nameless_parameters() -> None:
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = AdamW([{"params": [a]}, {"params": [b, c]}], nonfinite="raise")
    a.grad, c.grad = torch.ones(2), torch.tensor([1.0, float("inf")])
    with pytest.raises(FloatingPointError, match=r"^the gradient of parameter 1 of group 1 is not finite$"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_large_finite_gradients_are_finite(dtype: torch.dtype) -> None:
    """The sum of the largest numbers of a dtype overflows it, and is no reason to skip a step."""
    p = nn.Parameter(torch.ones(100, dtype=dtype))
    optimizer = SGD([p], lr=1e-30, nonfinite="raise")
    p.grad = torch.full_like(p, torch.finfo(dtype).max)
    optimizer.step()
    assert p in optimizer.state


def test_coupled_and_decoupled_decay_together_by_renaming() -> None:
    p = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    l2 = add_decayed_weights(weight_decay=0.5).rename(weight_decay="l2")
    optimizer = Chained([p], l2 >> trust_ratio(adapt=False), lr=0.1, weight_decay=1.0)
    assert optimizer.param_groups[0]["l2"] == 0.5 and optimizer.param_groups[0]["weight_decay"] == 1.0
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert p.item() == pytest.approx(0.9 * 2.0 - 0.1 * 0.5 * 2.0, rel=1e-15)
