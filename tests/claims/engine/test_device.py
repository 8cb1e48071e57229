"""Claims run on another device as they stand, and give the same numbers there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from thalweg.claims.engine import load
from thalweg.claims.engine.claim_file import slugs
from thalweg.claims.engine.contract import Claim, Measurement
from thalweg.claims.engine.device import CPU, Running, running_on
from thalweg.tasks.white_digits import class_modes
from thalweg.testing.pretended import DEVICE, pretending

WITH_GPU = [slug for slug in slugs() if "gpu" in load(slug).claim.SCALES]
SHORTER: dict[str, dict[str, Any]] = {
    "attention-svm": {"steps": 25, "factor_steps": 25},
    "deep-linear-dynamics": {"width": 24, "depths": (3, 5), "cap": 4, "grid": (0.0, -0.5)},
    "dsd-locality-weight-sharing": {"steps": 4},
    "hessian-overparam-spectrum": {"clusters": (2,), "widths": (5, 10), "digits": 60, "epochs": 1, "random_steps": 3},
    "icl-gradient-descent": {"steps": ((2, 4), (2, 4))},
    "icl-vs-gd-revisited": {"lrs": (0.1,), "tasks": 1, "epochs": 1},
    "lazy-to-rich-grokking": {"steps": 120, "side_steps": 60},
    "li2-grokking-feature-emergence": {"orders": (5,), "decays": (0.0,), "steps": 30},
    "matrix-sensing-overparam-gd": {"steps": 700, "gaussian_steps": 801},
    "one-step-icl-optimal": {"steps": 20},
    "opposing-signals": {"cells": ((0.0, 0.5),), "toy_steps": 60},
    "rich-lazy-rank": {"most": 20},
    "sgd-dynamical-stability": {"problems": 4, "steps": 100, "gd_steps": 100, "relu_steps": 60},
    "subgm-robust-recovery": {"steps": 100},
}
"""Less than the smoke scale, which takes a minute to see nothing else: later steps do what earlier ones did."""


def shortened(slug: str, monkeypatch: pytest.MonkeyPatch) -> Claim:
    claim: Any = load(slug).claim
    if slug in SHORTER:
        monkeypatch.setitem(claim.SIZES, "smoke", replace(claim.SIZES["smoke"], **SHORTER[slug]))
    return claim


def smoke(claim: Any) -> Measurement:
    torch.manual_seed(0)
    chosen = {"chosen": claim.choose("smoke", report=lambda *_: None)} if hasattr(claim, "choose") else {}
    torch.manual_seed(0)
    return claim.run("smoke", 0, report=lambda *_: None, **chosen)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On a device that isn't there, with the very random numbers that the CPU gives."""
    monkeypatch.setattr(Running, "_twin", lambda self, generator, device: generator)
    with pretending(), running_on(DEVICE):
        yield


@pytest.mark.parametrize("slug", WITH_GPU)
def test_elsewhere_a_claim_gives_the_same(
    slug: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    claim = shortened(slug, monkeypatch)
    expected = smoke(claim)
    request.getfixturevalue("elsewhere")
    found = smoke(claim)
    assert found.numbers == pytest.approx(expected.numbers, rel=1e-3, abs=1e-9)


def test_all_that_names_no_device_is_made_there(elsewhere: None) -> None:
    draws = torch.Generator().manual_seed(0)
    made = [
        torch.zeros(2), torch.tensor([1.0, 2.0]), torch.as_tensor(np.ones(2)), torch.as_tensor(torch.ones(2, device="cpu")),
        torch.randn(2, generator=draws), torch.randperm(2, generator=draws), nn.Linear(2, 2).weight,
    ]  # fmt: skip
    assert [each.device for each in made] == [DEVICE] * len(made)
    assert torch.tensor([1.0], requires_grad=True).requires_grad
    assert np.asarray(torch.tensor([1.0, 2.0])).tolist() == torch.tensor([1.0, 2.0]).numpy().tolist() == [1.0, 2.0]


def test_linspace_is_made_there_even_if_torch_has_forgotten_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it has where a model of transformers was loaded first."""
    known = torch.utils._device._device_constructors() - {torch.linspace}
    monkeypatch.setattr(torch.utils._device, "_device_constructors", lambda: known)
    with pretending(), torch.device(DEVICE):
        assert torch.linspace(0, 1, 3).device == CPU  # this is what happens without the claims' own context
    with pretending(), running_on(DEVICE):
        assert torch.linspace(0, 1, 3).device == DEVICE
        assert torch.linspace(0, 1, 3, device="cpu").device == CPU


def test_what_names_a_device_stays_there(elsewhere: None) -> None:
    there = [torch.zeros(2, device="cpu"), torch.tensor([1.0], device="cpu"), torch.as_tensor([1.0], device="cpu")]
    assert all(each.device.type == "cpu" for each in there)
    with pytest.raises(RuntimeError, match="expected all tensors to be on"):
        torch.zeros(2) + there[0]


def test_a_generator_of_another_device_seeds_one_there() -> None:
    """The CPU has no second device: a twin is asked for by hand."""
    running = Running(CPU)
    draws = torch.Generator().manual_seed(3)
    assert running._twin(draws, CPU) is draws
    with running:
        assert torch.equal(torch.randn(3, generator=draws), torch.randn(3, generator=torch.Generator().manual_seed(3)))


def test_twins_are_made_once_and_follow_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "thalweg.claims.engine.device.generator_on", lambda device, seed: torch.Generator().manual_seed(seed)
    )
    first, second = (Running(DEVICE)._twin(torch.Generator().manual_seed(k), DEVICE).initial_seed() for k in (3, 3))
    assert first == second != Running(DEVICE)._twin(torch.Generator().manual_seed(4), DEVICE).initial_seed()
    running, draws = Running(DEVICE), torch.Generator().manual_seed(3)
    assert running._twin(draws, DEVICE) is running._twin(draws, DEVICE)


def test_what_is_remembered_is_remembered_on_each_device(request: pytest.FixtureRequest) -> None:
    here = class_modes(9)[1]
    request.getfixturevalue("elsewhere")
    assert class_modes(9)[1].device == DEVICE and class_modes(9)[1] is class_modes(9)[1]
    assert torch.equal(class_modes(9)[1].cpu(), here)
