import math

import pytest

from thalweg.claims import double_descent_optimization as claim
from thalweg.claims.engine.contract import Measurement

HEIGHTS = (1.2, 1.5, 3.0, 8.0, 20.0, 100.0)
NAMES = [f"descent, {T:g} steps" for T in claim.LONG] + [f"normalized, {k}" for k in range(20)]


def good(heights=HEIGHTS, off=0.0):
    numbers = {"closed form": off}
    for i, name in enumerate(NAMES):
        height = heights[i] if i < 6 else 2.0 + i
        numbers[f"train/{name}"] = 1 / height
        numbers |= {f"test/{name}/{w}": 0.5 * height for w in claim.PEAK} | {f"test/{name}/{claim.WIDEST}": 0.5}
    numbers |= {"train/ridge": 0.4} | {f"test/ridge/{w}": 1.0 for w in (*claim.PEAK, claim.WIDEST)}
    return numbers


def word(numbers):
    return claim.judge([Measurement(numbers)] * 3).word


def test_smoke_takes_the_steps_that_the_closed_form_says():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["closed form"] < 1e-6
    assert found.numbers["train/descent, 1e+06 steps"] < found.numbers["train/descent, 100 steps"]
    assert len([name for name in found.numbers if name.startswith("train/")]) >= 20
    assert claim.judge([found]).because


def test_all_that_is_asked_for():
    verdict = claim.judge([Measurement(good())] * 3)
    assert (
        verdict.word == "reproduced" and "-1.00 over 26 settings" in verdict.because and "best: 1.00" in verdict.because
    )


@pytest.mark.parametrize(
    "numbers",
    [
        good((1.26, 1.5, 3.0, 8.0, 20.0, 100.0)),
        good((1.2, 1.5, 1.4, 8.0, 20.0, 100.0)),
        good((1.2, 1.5, 3.0, 4.0, 4.9, 100.0)),
        good(off=0.02),
    ],
)
def test_steps_and_the_closed_form_are_asked_for(numbers):
    assert word(numbers) == "not reproduced at this scale"


@pytest.mark.parametrize(
    ("upset", "expected"), [(5, "reproduced"), (14, "partly"), (20, "not reproduced at this scale")]
)
def test_rank_correlation(upset, expected):
    """Some settings trade places: their training loss rises with the height."""
    numbers = good()
    for i in range(6, 6 + upset):
        numbers[f"train/{NAMES[i]}"] = 1 / (2.0 + 6 + (6 + upset - 1 - i))
    assert word(numbers) == expected


def test_ranks_only():
    assert claim._spearman([1.0, 2.0, 3.0], [1e-9, 5.0, math.inf]) == pytest.approx(1)
