import math

import pytest
import torch

from thalweg.claims import highdim_generalization_dynamics as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.linalg.regression_dynamics import generalization_curve, optimal_ridge_error, optimal_stopping


def good():
    """What theory says, as if it had been measured."""
    numbers = {"relu final/5": 0.9, "relu final/15": 3.0, "relu final/600": 0.95}
    for alpha in claim.ALPHAS:
        for inr in claim.INRS:
            curves = generalization_curve(alpha, claim.SNR, torch.tensor(claim.TIMES), inr=inr)
            for kind, course in zip(("test", "train"), curves, strict=True):
                for t, value in zip(claim.TIMES, course.tolist(), strict=True):
                    numbers[f"{kind}/{alpha:g}/{inr:g}/{t:g}"] = value
        numbers[f"lowest/{alpha:g}"] = optimal_stopping(alpha, claim.SNR)[1]
        numbers[f"ridge/{alpha:g}"] = optimal_ridge_error(alpha, claim.SNR)
    return numbers


def word(**changes):
    return claim.judge([Measurement(good() | {k.replace("_", " "): v for k, v in changes.items()})] * 3)


def test_smoke_runs_and_is_the_same_again():
    first = claim.run("smoke", 0, report=lambda share, doing="": None)
    size = claim.SIZES["smoke"]
    assert claim._linear(0.5, size, 0)[0].items() <= first.numbers.items()
    assert claim._relu(8, size, 0)[0] == first.numbers["relu final/8"]
    assert {curve.panel for curve in first.curves} == {panel.key for panel in claim.PANELS}
    assert not any(math.isnan(value) for value in first.numbers.values())
    assert first.numbers["test/0.5/0/2"] == pytest.approx(0.83, rel=0.2)
    assert claim.judge([first] * 2).because


def test_all_that_is_asked_for():
    assert word().word == "reproduced"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("relu final/600", 2.6, "wide students"),
        ("relu final/5", 3.1, "wide students"),
        ("lowest/0.5", 0.95, "too far from ridge"),
        ("lowest/2", -1.0, "another ratio"),
    ],
)
def test_partly(name, value, reason):
    verdict = claim.judge([Measurement(good() | {name: value})] * 3)
    assert verdict.word == "partly" and reason in verdict.because


@pytest.mark.parametrize(
    ("name", "factor", "held"),
    [
        ("test/1/0/5", 1.049, True),
        ("test/1/0/5", 1.06, False),
        ("train/2/1/1", 0.9, False),
        ("train/0.25/0/50", 1e3, True),
    ],
)
def test_theory_is_asked_for(name, factor, held):
    numbers = good()
    numbers[name] *= factor
    assert claim.judge([Measurement(numbers)] * 3).word == ("reproduced" if held else "not reproduced at this scale")


def test_spread_over_seeds_widens_what_is_allowed():
    numbers = [good(), good(), good()]
    for each, factor in zip(numbers, (0.9, 1.1, 1.2), strict=True):
        each["test/1/0/5"] *= factor
    assert claim.judge([Measurement(each) for each in numbers]).word == "reproduced"
