"""Every rule that the contract tests run over, and how to feed them gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.optim import (
    SGD,
    SGDP,
    AdaBelief,
    Adagrad,
    AdagradNorm,
    AdamP,
    AdamW,
    AuON,
    Chained,
    DCTAdamW,
    DiffGrad,
    Fira,
    Frugal,
    GaLore,
    HybridAuON,
    Lamb,
    Lars,
    Lion,
    LionK,
    Muon,
    NaturalGaLore,
    NorMuon,
    SophiaG,
    SophiaH,
    Subspace,
    Trion,
    add_decayed_weights,
    gradient_noise,
    lion_direction,
    momentum,
    orthogonalize,
    program_direction,
    rolling_median,
    trust_ratio,
)
from thalweg.optim.program_search import ADAMW

MATRICES = ((4, 3), (3, 5))
MIXED = ((4, 3), (3,), (), (2, 3, 2, 2))


@dataclass(frozen=True)
class Rule:
    """One optimizer under test, with settings under which a few steps on small tensors do something visible."""

    make: Callable[..., torch.optim.Optimizer]
    state_tensors: int
    decoupled: bool = True  # the engine decays the weights, not the chain
    matrices_only: bool = False
    whole_tensor: bool = False  # one bad number may spoil the whole tensor
    whole_optimizer: bool = False  # a step depends on the gradients of all parameters
    state_words: Callable[[int, int], int] | None = (
        None  # of an m x n matrix, where that isn't ``state_tensors`` times m n
    )

    def words(self, param: Tensor, group: dict[str, Any]) -> int:
        """Numbers of state that a parameter should have, four bytes each."""
        if group.get("rule") == "adamw":
            return 2 * param.numel()
        if self.state_words is None:
            return self.state_tensors * param.numel()
        return self.state_words(param.shape[0], param.shape[1:].numel())

    def __call__(self, params: Any, **settings: Any) -> torch.optim.Optimizer:
        return self.make(params, **settings)

    def parameters(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(seed)
        shapes = MATRICES if self.matrices_only else MIXED
        return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in shapes]


def chained(chain: Any, **fixed: Any) -> Callable[..., Chained]:
    return lambda params, **settings: Chained(params, chain, **{**fixed, **settings})


def named(cls: Any, **fixed: Any) -> Callable[..., torch.optim.Optimizer]:
    return lambda params, **settings: cls(params, **{**fixed, **settings})


ORTHOGONAL = momentum(ema=True) >> orthogonalize() >> trust_ratio()


def subspace_words(moments: int, rank: int, extra: int = 0) -> Callable[[int, int], int]:
    """State at a rank: moments of the longer side, a basis of the shorter one."""
    return lambda m, n: rank * (moments * max(m, n) + min(m, n)) + extra


RULES: dict[str, Rule] = {
    "adamw": Rule(named(AdamW, lr=0.05, weight_decay=0.1), 2),
    "sgd": Rule(named(SGD, lr=0.05, weight_decay=0.1), 1),
    "sgd_nesterov": Rule(named(SGD, lr=0.05, nesterov=True), 1),
    "lion": Rule(named(Lion, lr=0.02, weight_decay=0.1), 1),
    "lion_k": Rule(named(LionK, lr=0.02, weight_decay=0.1, kernel="smooth", threshold=0.1), 1),
    "lion_k_l2": Rule(
        named(LionK, lr=0.2, weight_decay=0.1, kernel="l2", implicit_decay=True), 1, decoupled=False, whole_tensor=True
    ),
    "lion_k_topk": Rule(named(LionK, lr=0.1, weight_decay=0.1, kernel="topk"), 1, whole_tensor=True),
    "program": Rule(chained(program_direction(program=str(ADAMW).replace("0.01", "0.0")), lr=20.0), 2),
    "lamb": Rule(named(Lamb, lr=0.05), 2, decoupled=False, whole_tensor=True),
    "lamb_clamped": Rule(named(Lamb, lr=0.05, clamp_norm=(0.5, 10.0)), 2, decoupled=False, whole_tensor=True),
    "lars": Rule(named(Lars, lr=5.0), 1, decoupled=False, whole_tensor=True),
    "lars_lamb_paper": Rule(named(Lars, lr=0.05, variant="lamb-paper"), 1, decoupled=False, whole_tensor=True),
    "lamb_decoupled": Rule(
        named(Lamb, lr=0.05, weight_decay=0.1, decoupled=True, clamp_ratio=(0.0, 2.0), norm_eps=1e-6),
        2,
        whole_tensor=True,
    ),
    "lars_in_buffer": Rule(named(Lars, lr=5.0, clip=True, lr_in_buffer=True), 1, decoupled=False, whole_tensor=True),
    "adamp": Rule(named(AdamP, lr=0.05, weight_decay=0.1), 2, decoupled=False, whole_tensor=True),
    "adamp_often": Rule(named(AdamP, lr=0.05, delta=1.5), 2, decoupled=False, whole_tensor=True),
    "sgdp": Rule(named(SGDP, lr=0.05, weight_decay=0.01, delta=2.0), 1, decoupled=False, whole_tensor=True),
    "adabelief": Rule(named(AdaBelief, lr=0.05, weight_decay=0.1), 2),
    "adabelief_coupled": Rule(
        named(AdaBelief, lr=0.05, weight_decay=0.1, decoupled=False, rectify=True, amsgrad=True), 3, decoupled=False
    ),
    "diffgrad": Rule(named(DiffGrad, lr=0.05, weight_decay=0.1), 3),
    "diffgrad_coupled": Rule(named(DiffGrad, lr=0.05, weight_decay=0.1, decoupled=False), 3, decoupled=False),
    "sophia": Rule(named(SophiaG, lr=0.02), 2),
    "sophia_h": Rule(named(SophiaH, lr=0.02), 2),
    "adagrad": Rule(named(Adagrad, lr=0.3, weight_decay=0.1), 1),
    "adagrad_norm": Rule(named(AdagradNorm, lr=3.0, weight_decay=0.1), 0, whole_optimizer=True),
    "muon": Rule(named(Muon, lr=0.02, weight_decay=0.1, rest_lr=0.05), 1, whole_tensor=True),
    "normuon": Rule(
        named(NorMuon, lr=0.02, weight_decay=0.1, rest_lr=0.05),
        1,
        whole_tensor=True,
        state_words=lambda m, n: m * n + m,
    ),
    "auon": Rule(named(AuON, lr=0.5, weight_decay=0.1, rest_lr=0.05), 1, whole_tensor=True),
    "auon_normalized": Rule(named(AuON, lr=0.1, normalize=True, rest_lr=0.05), 1, whole_tensor=True),
    "hybrid_auon": Rule(named(HybridAuON, lr=0.02, weight_decay=0.1, rest_lr=0.05), 1, whole_tensor=True),
    "galore": Rule(
        named(GaLore, lr=0.05, weight_decay=0.1, rank=2, update_every=2, scale=1.0),
        1,
        whole_tensor=True,
        state_words=subspace_words(2, 2),
    ),
    "fira": Rule(
        named(Fira, lr=0.05, rank=2, update_every=2), 1, whole_tensor=True, state_words=subspace_words(2, 2, extra=1)
    ),
    "frugal_columns": Rule(
        named(Frugal, lr=0.02, weight_decay=0.1, density=0.5, update_every=2, projection="columns"),
        1,
        whole_tensor=True,
        state_words=lambda m, n: n // 2 * (2 * m + 1),
    ),
    "frugal_blocks": Rule(
        named(Frugal, lr=0.02, weight_decay=0.1, density=1.0, update_every=2),
        1,
        state_words=lambda m, n: 2 * m * n + 1,
    ),
    "natural_galore": Rule(
        named(NaturalGaLore, lr=0.05, rank=1, update_every=2, history=2, scale=1.0),
        1,
        whole_tensor=True,
        state_words=subspace_words(4, 1),
    ),
    "dct_adamw": Rule(
        named(DCTAdamW, lr=0.05, weight_decay=0.1, rank=2, error_feedback=True),
        1,
        whole_tensor=True,
        state_words=lambda m, n: 4 * max(m, n) + 2 + m * n,
    ),
    "trion": Rule(named(Trion, lr=0.05, weight_decay=0.1, rank=2, rest_lr=0.05), 1, whole_tensor=True),
    "lion_in_random_subspace": Rule(
        named(
            Subspace, rule=lion_direction(), lr=0.02, density=0.5, basis="random", on_switch="rotate", update_every=2
        ),
        1,
        whole_tensor=True,
        state_words=lambda m, n: round(0.5 * min(m, n)) * (m + n),
    ),
    "noisy_lion": Rule(chained(gradient_noise(eta=1e-4) >> lion_direction(), lr=0.02, weight_decay=0.1), 1),
    "noisy_muon": Rule(named(Muon, lr=0.02, before=gradient_noise(eta=1e-4)), 1, whole_tensor=True),
    "rolling_median": Rule(chained(rolling_median() >> momentum(), lr=0.05, weight_decay=0.1), 3),
    "coupled_sgd": Rule(chained(add_decayed_weights(weight_decay=0.1) >> momentum(), lr=0.05), 1, decoupled=False),
    "chained_matrix": Rule(chained(ORTHOGONAL, lr=0.05), 1, matrices_only=True, whole_tensor=True),
}


FEW = ("adamw", "lamb", "muon", "coupled_sgd")
"""Rules that stand for all where only the engine is at work: elementwise, layerwise, matrix, and one that decays by itself."""


@pytest.fixture(params=FEW, scope="session")
def few(request: pytest.FixtureRequest) -> Rule:
    """One rule of each kind in turn."""
    return RULES[request.param]


@pytest.fixture(params=RULES, scope="session")
def rule(request: pytest.FixtureRequest) -> Rule:
    """Every rule in turn."""
    return RULES[request.param]


def gradients(params: Sequence[Tensor], step: int, scale: float = 1.0) -> Iterator[Tensor]:
    """Random gradients that depend on the step and the parameter's place alone."""
    for i, p in enumerate(params):
        generator = torch.Generator().manual_seed(1000 * step + i)
        real = torch.float64 if not p.is_complex() else torch.complex128
        yield (scale * torch.randn(p.shape, generator=generator, dtype=real)).to(p.dtype)


@pytest.fixture(scope="session")
def train() -> Callable[..., None]:
    """``train(optimizer, params, first, last, scale=1.0)``: steps with the random gradients of those step numbers."""

    def run(
        optimizer: torch.optim.Optimizer, params: Sequence[Tensor], first: int, last: int, scale: float = 1.0
    ) -> None:
        for step in range(first, last):
            for p, g in zip(params, gradients(params, step, scale), strict=True):
                p.grad = g
            optimizer.step()

    return run


@pytest.fixture(scope="session")
def same() -> Callable[[Sequence[Tensor], Sequence[Tensor]], bool]:
    """Whether two lists of tensors agree bit by bit, with dtypes; NaN equals NaN."""

    def compare(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
        return all(
            x.dtype == y.dtype and torch.equal(torch.nan_to_num(x, nan=7.5), torch.nan_to_num(y, nan=7.5))
            for x, y in zip(a, b, strict=True)
        )

    return compare
