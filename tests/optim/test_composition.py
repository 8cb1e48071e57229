"""Random chains of all public transforms train, resume and keep parameters apart; impossible ones say why at once."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thalweg.optim as optim
from thalweg.optim import (
    SAM,
    AdamW,
    Chain,
    Chained,
    GradientRegularizedNewton,
    MultiTaskSAM,
    SophiaH,
    Transform,
    adam_direction,
    add_decayed_weights,
    clip_gradient_norm,
    cosh_damping,
    gradient_noise,
    implicit_decay,
    kernel_gradient,
    lion_direction,
    matrix_kernel_gradient,
    momentum,
    natural_gradient,
    normalize_neurons,
    orthogonalize,
    radial_projection,
    subspace,
    trust_ratio,
)
from thalweg.optim.engine import compiling
from thalweg.optim.engine.transform import TransformType

MIXED, MATRICES = ((4, 3), (3,), (), (2, 3, 2, 2), (3,)), ((4, 3), (3, 5), (4, 3))

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "adabelief_direction": [{}, {"rectify": True}],
    "add_gradient_noise": [{"eta": 1e-6}],
    "cosh_damping": [{}, {"normalize": True, "shape_factor": True}, {"experts": True}],
    "kernel_gradient": [{"kernel": "huber"}, {"kernel": "lp"}],
    "matrix_kernel_gradient": [{"kernel": name} for name in ("nuclear", "group_l2", "topk")],
    "momentum": [{}, {"nesterov": True}, {"ema": True}],
    "natural_gradient": [{"history": 2, "update_every": 2}],
    "normalize_neurons": [{}, {"neuron_dim": 1, "update_scale": "match_rms"}],
    "orthogonalize": [{}, {"ns_coefficients": "polar_express"}],
}
"""Settings to try, where not just the defaults."""

SUBSPACES = {
    "lion in a subspace": partial(subspace, lion_direction(), rank=2, update_every=2),
    "adam in a subspace": partial(subspace, adam_direction(), density=0.5, update_every=2, basis="columns", residual="error_feedback"),
    "muon in a subspace": partial(
        subspace, momentum() >> orthogonalize(), rank=2, update_every=2, basis="random", residual="sgd", on_switch="rotate"
    ),
}  # fmt: skip

TRANSFORMS: dict[str, Callable[[], Transform]] = dict(SUBSPACES)
for _name in optim.__all__:
    if isinstance(getattr(optim, _name), TransformType):
        for _place, _settings in enumerate(SETTINGS.get(_name, [{}])):
            TRANSFORMS[f"{_name} {_place}"] = partial(getattr(optim, _name), **_settings)


def joined(names: Sequence[str]) -> Chain:
    """The chain of these transforms; what two of them call alike is renamed, as the error says."""
    chain = Chain(())
    for place, name in enumerate(names):
        part = TRANSFORMS[name]()
        for hyper, value in part.hypers:
            if chain.hypers.get(hyper, value) != value:
                with pytest.raises(ValueError, match=rf"claim '{hyper}' with different values"):
                    chain >> part
                part = part.rename(**{hyper: f"{hyper}_{place}"})
        chain = chain >> part
    return chain


@st.composite
def chains(draw: Any) -> Chain:
    """Two to four transforms of all kinds, in any order that is legal."""
    names = draw(st.lists(st.sampled_from(sorted(TRANSFORMS)), min_size=2, max_size=4))
    return joined(sorted(names, key=lambda name: name.startswith("implicit_decay")))


def parameters_for(chain: Chain, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    """Matrices, and where the chain takes them vectors, a scalar and a convolution."""
    generator = torch.Generator().manual_seed(0)
    only_matrices = any(t.type.kind == "matrix" and not t.type.vectors for t in chain)
    shapes = MATRICES if only_matrices else MIXED
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def loss_of(params: Sequence[Tensor]) -> Tensor:
    return torch.stack([(p * p).sum() for p in params]).sum()


def descend(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(params).backward()
        optimizer.step()
    return float(loss_of(params).detach())


def resumed(optimizer: torch.optim.Optimizer, params: Sequence[Tensor], make: Callable[..., Any]) -> list[nn.Parameter]:
    """Copies of the parameters after three more steps by an optimizer that loaded this one's state from a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    fresh = make(twins)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    descend(fresh, twins, 3)
    return twins


@settings(max_examples=25, deadline=None, derandomize=True)
@given(chain=chains(), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_random_chains_train_and_resume_bit_by_bit(chain: Chain, dtype: torch.dtype) -> None:
    def make(params: list[nn.Parameter]) -> Chained:
        return Chained(params, chain, lr=0.01, compile=False)

    params = parameters_for(chain, dtype)
    optimizer = make(params)
    before = float(loss_of(params).detach())
    descend(optimizer, params, 3)
    twins = resumed(optimizer, params, make)
    after = descend(optimizer, params, 3)
    assert math.isfinite(after)
    # The few largest entries, or an update projected at random, may say too little to go down by.
    if not any(name in repr(chain) for name in ("topk", "random")):
        assert after < before
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(chain=chains())
def test_parameters_move_as_each_alone(chain: Chain) -> None:
    """Whatever the engine joins and stacks, one tensor's numbers don't reach another."""
    if chain.needs_gradient_norm or any("normal" in t.type.needs for t in chain) or "random" in repr(chain):
        return  # these depend on the other parameters, or on the parameter's number
    together, alone = parameters_for(chain), parameters_for(chain)
    descend(Chained(together, chain, lr=0.01, compile=False), together, 3)
    for p in alone:
        descend(Chained([p], chain, lr=0.01, compile=False), [p], 3)
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(chain=chains())
def test_wrappers_take_random_chains(chain: Chain) -> None:
    params = parameters_for(chain)
    optimizer = SAM(params, base=chain, lr=0.01, rho=0.01, weight_decay=0.0, compile=False)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(params)
        loss.backward()
        return loss

    start = copies = [p.detach().clone() for p in params]
    losses = [float(optimizer.step(closure).detach()) for _ in range(3)]
    assert all(map(math.isfinite, losses)) and not all(map(torch.equal, params, start))
    shared, own = parameters_for(chain)[:1], [nn.Parameter(c) for c in copies[:1]]
    tasks = MultiTaskSAM(shared, [own, []], base=chain, lr=0.01, weight_decay=0.0, compile=False)
    for _ in range(2):
        seen = tasks.step(lambda: [loss_of([*shared, *own]), 2 * loss_of(shared)])
    assert seen.losses.isfinite().all()


def test_a_wrapper_of_a_chain_is_one_of_its_optimizer() -> None:
    chain = gradient_noise(eta=1e-3) >> momentum() >> trust_ratio()
    ends = []
    for base in (chain, partial(Chained, chain=chain)):
        params = parameters_for(chain)
        optimizer = SAM(params, base=base, lr=0.1, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(params).backward()
            optimizer.perturb()
            optimizer.step()
        ends.append(params)
    assert all(map(torch.equal, *ends))


def test_a_chain_across_families_is_traced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is compiled, but the graph is run as it is, which takes no compiler and gives the eager numbers."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: graph)
    compiling._shared.cache_clear()
    names = ["clip_gradient_norm 0", "adam_direction 0", "orthogonalize 0", "radial_projection 0", "implicit_decay 0"]
    ends = []
    for compile_ in (False, True):
        chain = joined(names)
        params = parameters_for(chain)
        descend(Chained(params, chain, lr=0.01, compile=compile_), params, 3)
        ends.append(params)
    compiling._shared.cache_clear()
    for p, q in zip(*ends, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(*(shape or (4, 3)), dtype=dtype))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        # Names
        (lambda: adam_direction() >> lion_direction(),
         "two transforms of the chain claim 'betas' with different values, (0.9, 0.999) and (0.9, 0.99): give both the same value, or "
         "rename one, as in lion_direction(...).rename(betas='...')"),
        (lambda: momentum().rename(momentum="lr") >> trust_ratio(),
         "momentum: 'lr' belongs to the engine and can't be a hyper-parameter"),
        (lambda: momentum().rename(beta="slow"), "momentum has no hyper-parameter 'beta' to rename"),
        # Order
        (lambda: implicit_decay() >> momentum(), "implicit_decay must end its chain, but momentum comes after it"),
        (lambda: momentum() >> (implicit_decay() >> trust_ratio()),
         "implicit_decay must end its chain, but trust_ratio comes after it"),
        # Weight decay, once
        (lambda: Chained(weight(), momentum() >> implicit_decay(), weight_decay=0.1),
         "the chain decays the weights by itself: set weight_decay=0 here, or rename its own, as in "
         "add_decayed_weights(...).rename(weight_decay='l2')"),
        (lambda: AdamW(weight(), before=add_decayed_weights()),
         "the chain decays the weights by itself: set weight_decay=0 here, or rename its own, as in "
         "add_decayed_weights(...).rename(weight_decay='l2')"),
        (lambda: Chained(weight(), add_decayed_weights() >> momentum(), decay="after"),
         "decay='after' is for decoupled weight decay, but this chain decays the weights by itself"),
        # Settings that can't be, in the transform and in a group
        (lambda: kernel_gradient(kernel="l2"),
         "kernel 'l2' works per tensor; this transform takes kernels per element: hinge, huber, l1, l2sq, logcosh, lp, smooth"),
        (lambda: kernel_gradient(kernel="lp", p=0.5), "Invalid p: 0.5 (must be a number >= 1)"),
        (lambda: kernel_gradient(p="large"), "Invalid p: 'large' (must be a number)"),
        (lambda: matrix_kernel_gradient(kernel="topk", k=0), "Invalid k: 0 (must be a whole number >= 1)"),
        (lambda: momentum(nesterov="no"), "Invalid nesterov: 'no' (must be True or False)"),
        (lambda: orthogonalize(adjust_lr_fn="big"),
         "unknown adjust_lr_fn 'big' (choose from original, match_rms_adamw, spectral, none)"),
        (lambda: orthogonalize(ns_dtype="int8"), "unknown ns_dtype 'int8' (choose from float32, float64, bfloat16)"),
        (lambda: Chained([{"params": weight(), "adjust_lr_fn": "big"}], orthogonalize()),
         "unknown adjust_lr_fn 'big' (choose from original, match_rms_adamw, spectral, none)"),
        (lambda: Chained([{"params": weight(), "adjust_lr_fn": "big"}], subspace(orthogonalize(), rank=2)),
         "unknown adjust_lr_fn 'big' (choose from original, match_rms_adamw, spectral, none)"),
        (lambda: Chained([{"params": weight(), "betas": (0.9,)}], lion_direction() >> trust_ratio()),
         "Invalid betas: (0.9,) (must be 2 numbers)"),
        (lambda: Chained([{"params": weight(), "nesterov": "no"}], momentum()), "Invalid nesterov: 'no' (must be True or False)"),
        # Parameters that a transform can't take
        (lambda: Chained(weight(5), momentum() >> orthogonalize()),
         "a matrix rule needs parameters of two dimensions or more, not shape (5,)"),
        (lambda: Chained([{"params": weight(), "split": 3}], momentum() >> orthogonalize()),
         "split=3 doesn't divide the 4 rows of a parameter of shape (4, 3)"),
        (lambda: Chained(weight(dtype=torch.complex64), momentum() >> orthogonalize()),
         "a matrix rule can't take the complex parameter of shape (4, 3)"),
        (lambda: Chained(weight(dtype=torch.complex64), momentum() >> radial_projection()),
         "a rule that works on rows can't take the complex parameter of shape (4, 3)"),
        (lambda: Chained(weight(), momentum() >> normalize_neurons(neuron_dim=2)),
         "Invalid neuron_dim: 2 (0: a neuron is a row; 1: a column)"),
        # What has no meaning in a subspace
        (lambda: subspace(momentum()), "give either rank or density, not both or none"),
        (lambda: subspace(trust_ratio(), rank=2),
         "trust_ratio can't run in a subspace: it needs norms over whole tensors; put it before or after"),
        (lambda: subspace(add_decayed_weights() >> momentum(), rank=2),
         "add_decayed_weights can't run in a subspace: it needs the weights; put it before or after"),
        (lambda: subspace(gradient_noise(), rank=2),
         "add_gradient_noise can't run in a subspace: it needs normal; put it before or after"),
        (lambda: subspace(clip_gradient_norm(), rank=2),
         "clip_gradient_norm can't run in a subspace: it needs gradient_norm; put it before or after"),
        (lambda: subspace(subspace(momentum(), rank=2), rank=2),
         "subspace[svd, drop, keep] can't run in a subspace: it needs basis; put it before or after"),
        (lambda: subspace(natural_gradient(update_every=3), rank=2, update_every=2),
         "the rule and its subspace claim 'update_every' with different values, 3 and 2: give both the same value, or rename the "
         "rule's"),
        # Wrappers
        (lambda: SAM(weight(), base=SAM), "SAM can't wrap SAM, which evaluates closures by itself"),
        (lambda: SAM(weight(), base=SophiaH), "SAM can't wrap SophiaH, which evaluates closures by itself"),
        (lambda: SAM(weight(), base=torch.optim.LBFGS), "SAM can't wrap LBFGS, which evaluates closures by itself"),
        (lambda: SAM(weight(), base=lambda params, **settings: SAM(params, **settings)),
         "SAM can't wrap SAM, which evaluates closures by itself"),
        (lambda: MultiTaskSAM(weight(), [[]], base=GradientRegularizedNewton),
         "MultiTaskSAM can't wrap GradientRegularizedNewton, which evaluates closures by itself"),
        (lambda: SAM(weight(), base=momentum() >> add_decayed_weights()),
         "the chain decays the weights by itself: set weight_decay=0 here, or rename its own, as in "
         "add_decayed_weights(...).rename(weight_decay='l2')"),
        (lambda: SAM(weight(5), base=orthogonalize()),
         "a matrix rule needs parameters of two dimensions or more, not shape (5,)"),
    ],
)  # fmt: skip
def test_what_can_not_work_is_refused_at_construction(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: momentum() >> trust_ratio, "trust_ratio must be called: write trust_ratio()"),
        (lambda: momentum() >> "lion", "a chain is made of transforms, not str"),
        (lambda: Chained(weight(), momentum), "momentum must be called: write momentum()"),
        (lambda: momentum(beta=0.9), "momentum() has no hyper-parameter 'beta' (it has: momentum, nesterov, ema)"),
    ],
)
def test_what_is_no_transform_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert str(caught.value) == message


def test_experts_of_fewer_than_two_dimensions() -> None:
    """Each number of a vector is a tensor by itself; a scalar is one number."""
    for shape in ((3,), ()):
        p, ones = nn.Parameter(torch.zeros(shape, dtype=torch.float64)), torch.ones(shape, dtype=torch.float64)
        p.grad = 2 * ones
        Chained([p], cosh_damping(experts=True), lr=1.0).step()
        torch.testing.assert_close(p.detach(), -2 * ones / math.cosh(1.5))


@pytest.mark.parametrize(
    "after", ["muon in a subspace", "matrix_kernel_gradient 0", "natural_gradient 0", "normalize_neurons 0"]
)
def test_matrix_transforms_after_one_that_leaves_bfloat16(after: str) -> None:
    chain = joined(["orthogonalize 0", after])
    params = [nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)))]
    before = float(loss_of(params).detach())
    assert descend(Chained(params, chain, lr=0.01), params, 4) < before and params[0].dtype is torch.float32
