"""The claim of coherent-gradients: its smallest run, its controls, and every way its verdict can turn."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
from torch import nn

from thalweg.claims import coherent_gradients as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = claim.choose("smoke", report=quiet)
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert all(isinstance(value, float) and not math.isnan(value) for value in found.numbers.values())
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["peak coherence, real"] > found.numbers["peak coherence, random"]
    assert claim.judge([found]).word
    assert claim.run("smoke", 0, report=quiet, chosen=chosen).numbers == found.numbers


def test_seeds_that_decide_chose_nothing() -> None:
    assert claim.TUNING_SEED not in {seed for scale in claim.SCALES.values() for seed in scale.seeds}


@pytest.mark.parametrize("rule", claim.RULES)
def test_slowed_steps_have_the_rules_length_and_the_means_direction(rule: str) -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(5, 3), torch.randn(9, 5), torch.arange(9) % 3
    past, plain = deque(maxlen=3), deque(maxlen=3)
    claim._gradient("SGD", 0, model, x, y, plain)
    mean = claim._flat(model)
    claim._gradient(f"SGD, slowed as {rule}", 2, model, x, y, past)
    slowed = claim._flat(model)
    claim._gradient(rule, 2, model, x, y, plain)
    torch.testing.assert_close(slowed.norm(), claim._flat(model).norm(), rtol=1e-5, atol=0)
    torch.testing.assert_close(slowed / slowed.norm(), mean / mean.norm(), rtol=1e-4, atol=1e-6)


def test_slowed_as_rm3_takes_the_median_of_three_steps() -> None:
    torch.manual_seed(0)
    model, past = nn.Linear(5, 3), deque(maxlen=3)
    means = []
    for seed in range(4):
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
        claim._gradient("SGD, slowed as RM3", 0, model, x, torch.arange(6) % 3, past)
        means.append(past[-1])
    median = torch.stack(means[-3:]).median(0).values
    torch.testing.assert_close(claim._flat(model).norm(), median.norm(), rtol=1e-5, atol=0)


def made(place: int = 0, **changes: float) -> Measurement:
    """A measurement in which both parts hold, for M3 alone."""
    numbers = {"peak coherence, real": 6.0, "peak coherence, random": 1.5}
    for arm in [*claim.ARMS, "SGD, stopped early"]:
        numbers |= {f"{arm}: gap": 0.3, f"{arm}: test accuracy": 0.6 + 0.001 * place}
    numbers |= {"M3: gap": 0.14, "SGD, slowed as M3: gap": 0.25, "SGD, stopped early: gap": 0.2}
    assert set(changes) <= set(numbers)
    return Measurement(numbers | changes)


def judged(**changes: float):
    return claim.judge([made(place, **changes) for place in range(3)])


def test_reproduced() -> None:
    verdict = judged()
    assert verdict.word == "reproduced" and verdict.explained_by is None
    assert "4.0 times" in verdict.because and "M3 cuts 53% of it, slowed SGD 17%" in verdict.because


def test_early_stopping_may_explain_it() -> None:
    assert judged(**{"SGD, stopped early: gap": 0.1}).explained_by == "early stopping on 300 clean images"
    assert judged(**{"SGD, stopped early: gap": 0.1, "M3: test accuracy": 0.7}).explained_by is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"M3: gap": 0.16}, "several examples"),
        ({"SGD, slowed as M3: gap": 0.21}, "shorter steps"),
        ({"M3: test accuracy": 0.5}, "true labels need"),
    ],
)
def test_partly(changes: dict[str, float], reason: str) -> None:
    verdict = judged(**changes)
    assert verdict.word == "partly" and reason in verdict.because


def test_not_reproduced_and_not_testable() -> None:
    assert judged(**{"peak coherence, random": 2.0}).word == "not reproduced at this scale"
    assert judged(**{"SGD: gap": 0.09}).word == "not testable at this scale"
