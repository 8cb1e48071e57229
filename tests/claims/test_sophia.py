"""The claim of sophia: its smallest run, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest
import torch

from thalweg.claims import sophia as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert all(len(curve.x) == len(curve.y) for curve in found.curves)
    assert 0 <= found.numbers["Sophia, all steps: share not clipped"] <= 1
    assert found.numbers["condition 10, Sophia: steps"] == 1  # at rate 1 exact curvature is Newton's step


def test_counts_on_the_quadratic() -> None:
    """Against a loop written out."""
    curvature = torch.logspace(0, 1, claim.DIM, dtype=torch.float64)[None]
    best = math.inf
    for lr in claim.RATES:
        x = curvature.rsqrt()
        for step in range(1, 100):
            x = x - lr * curvature * x
            if 0.5 * (curvature * x.square()).sum() < 1e-3 * 0.5 * claim.DIM:
                best = min(best, step)
                break
    assert claim._count("gradient descent", 0.0, curvature, 100).tolist() == [best]
    assert claim._count("gradient descent", 0.0, curvature, 5).tolist() == [5]


def test_the_schedule() -> None:
    factors = [claim._factor(step, 500) for step in range(500)]
    assert factors[0] == 1 / 25 and max(factors) == factors[25] == 1.0 and factors[-1] == pytest.approx(0.05, abs=1e-4)


def made(sophia: float, sophia_half: float, adamw: float, adamw_half: float, slow: float = 1.0, **steps: float):
    counts = {
        "Sophia": (1.0, slow),
        "Adam": (5.0, 75.0),
        "sign descent": (87.0, 2676.0),
        "gradient descent": (21.0, 3000.0),
    }
    numbers = {
        f"condition {c:g}, {arm}: steps": pair[place]
        for arm, pair in counts.items()
        for place, c in enumerate((10.0, 1e5))
    }
    means = {
        "Sophia, all steps": sophia, "Sophia, half the steps": sophia_half, "AdamW, all steps": adamw,
        "AdamW, half the steps": adamw_half,
    }  # fmt: skip
    return [
        Measurement(numbers | steps | {f"{arm}: validation loss": value + 0.002 * ((seed * (place + 1)) % 3 - 1)
                                       for place, (arm, value) in enumerate(means.items())})
        for seed in (1, 2, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "word", "words"),
    [
        ((2.1, 2.24, 2.24, 2.4), "reproduced", "Sophia's differ by a factor of 1.00"),
        ((2.1, 2.3, 2.24, 2.4), "partly", "by much less than a factor of two"),
        ((2.3, 2.3, 2.24, 2.4), "partly", "by much less than a factor of two"),  # ahead at half the steps only
        ((2.2, 2.2, 2.24, 2.24), "partly", "by much less"),  # AdamW too is there at half the steps
        ((2.3, 2.4, 2.24, 2.3), "not reproduced at this scale", "the first part alone holds"),
        ((2.24, 2.4, 2.24, 2.4), "not reproduced at this scale", "the first part alone holds"),
    ],
)
def test_verdicts(losses, word: str, words: str) -> None:
    verdict = claim.judge(made(*losses))
    assert verdict.word == word and words in verdict.because


@pytest.mark.parametrize(
    "change", [{"slow": 1.3}, {"condition 100000, sign descent: steps": 500.0}, {"condition 100000, gradient descent: steps": 30.0}]
)  # fmt: skip
def test_without_the_first_part_nothing_holds(change) -> None:
    verdict = claim.judge(made(2.1, 2.2, 2.24, 2.4, **change))
    assert verdict.word == "not reproduced at this scale" and "the quadratic part fails" in verdict.because
