import math

import pytest

from thalweg.claims import matrix_sensing_overparam_gd as claim
from thalweg.claims.engine.contract import Measurement

GOOD = {
    "exact rank": 1e-30,
    "slope/4": -1.8,
    "slope/10": -1.8,
    "over tail/4": 1.01,
    "over tail/10": 0.99,
    "power": 2.0,
    **{f"over theory/{a:g}": 1.02 for a in claim.RATES},
    **{f"rate/{a:g}": 20 * a**2 for a in claim.SMALL},
    **{f"rebalanced rate/{a:g}": 0.44 for a in claim.SMALL},
    **{f"steps/{a:g}": 110.0 for a in claim.RIVALS},
    "steps/rebalanced": 230.0,
    "gaussian two over one": 1e-7,
    "gaussian rebalanced over two": 1e-5,
}


def verdict(changes):
    return claim.judge([Measurement(GOOD | changes)] * 3)


def test_smoke_runs_and_has_the_rebalanced_rate():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["rebalanced rate/0.01"] == pytest.approx(-2 * math.log(0.8), rel=0.01)
    assert found.numbers["exact rank"] < 1e-20
    assert claim.judge([found]).because


def test_all_that_is_asked_for():
    assert verdict({}).word == "reproduced"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exact rank": 1e-19}, "too short"),
        ({"slope/10": -1.69}, "too short"),
        ({"over tail/4": 1.21}, "too short"),
        ({"over theory/0.05": 1.11}, "small enough"),
        ({"power": 1.5}, "small enough"),
        ({"rebalanced rate/0.01": 0.3}, "wasn't fitted"),
        ({"rate/0.01": 0.05}, "wasn't fitted"),
        ({"gaussian rebalanced over two": 0.1}, "too few measurements"),
    ],
)
def test_one_part_failing_is_partly(changes, reason):
    found = verdict(changes)
    assert found.word == "partly" and reason in found.because


def test_one_part_holding_is_not_enough():
    found = verdict({"slope/4": -1.0, "power": 1.0, "gaussian two over one": 1.0})
    assert found.word == "not reproduced at this scale"


def test_one_seed_decides_where_every_seed_must_hold():
    seeds = [Measurement(GOOD)] * 4
    assert claim.judge([*seeds, Measurement(GOOD | {"over theory/0.01": 0.8})]).word == "partly"
    assert claim.judge([*seeds, Measurement(GOOD | {"slope/4": 0.0})]).word == "reproduced"
