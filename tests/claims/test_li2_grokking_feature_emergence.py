import math

import pytest

from thalweg.claims import li2_grokking_feature_emergence as claim
from thalweg.claims.engine.contract import Measurement

GOOD = {
    **{f"single/{order}": 1.0 for order in (11, 23)},
    **{f"accuracy/{order}/{c}": value for order in (23, 41) for c, value in ((2.3, 0.0), (2.5, 0.2), (2.7, 0.8))},
    "decay/on": 0.96,
    "decay/epochs": 340.0,
    "decay/off": 0.03,
    "decay/off: training": 1.0,
    "purity": 0.6,
    "frequencies": 15.0,
}


def verdict(changes, seeds=3):
    return claim.judge([Measurement(GOOD)] * (seeds - 1) + [Measurement(GOOD | changes)])


def test_smoke_runs_and_climbs_to_the_closed_form():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    numbers = found.numbers
    assert numbers["single/11"] == 1 and numbers["energy/11"] == pytest.approx(11 / 4, rel=1e-3)
    assert numbers["energy, Fourier/11"] == pytest.approx(numbers["energy/11"])
    assert numbers["decay/on"] > 0.9 and numbers["decay/off"] < 0.5 and numbers["decay/off: training"] == 1
    assert claim.judge([found]).because


def test_all_that_is_asked_for():
    found = verdict({})
    assert found.word == "reproduced" and "2.60 (M = 23)" in found.because


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1.0, 0.0), (2.0, 1.0)], 1.5),
        ([(1.0, 0.1), (2.0, 0.4), (3.0, 0.6)], 2.5),
        ([(1.0, 0.0), (2.0, 0.5)], 2.0),
        ([(1.0, 0.6), (2.0, 0.9)], math.inf),
        ([(1.0, 0.0), (2.0, 0.4)], math.inf),
    ],
)
def test_crossing(points, expected):
    assert claim._crossing(points) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accuracy/41/2.7": -9.0}, "another law"),  # so low in one seed that the mean never crosses
        ({"single/23": 0.8}, "ended too early"),
        ({"decay/off": 0.6}, "without decay"),
        ({"decay/off: training": 0.9}, "without decay"),
    ],
)
def test_one_part_failing_is_partly(changes, reason):
    found = verdict(changes)
    assert found.word == "partly" and reason in found.because


def test_a_constant_share_is_rejected():
    """Accuracy as a function of pairs / M^2: the crossings in units of M log M are then apart by 1.5."""
    made = {f"accuracy/23/{c}": float(c >= 2) for c in (1.8, 2.0, 2.2, 2.8, 3.0, 3.2)}
    made |= {f"accuracy/41/{c}": float(c >= 3) for c in (1.8, 2.0, 2.2, 2.8, 3.0, 3.2)}
    rest = {name: value for name, value in GOOD.items() if not name.startswith("accuracy/")}
    assert claim.judge([Measurement(rest | made)]).word == "partly"


def test_two_parts_failing_is_not_enough():
    assert verdict({"single/23": 0.8, "decay/off": 0.6}).word == "not reproduced at this scale"


def test_without_grokking_nothing_can_be_said():
    assert verdict({"decay/on": 0.9}).word == "not testable at this scale"
