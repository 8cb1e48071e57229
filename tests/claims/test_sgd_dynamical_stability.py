import math

import pytest

from thalweg.claims import sgd_dynamical_stability as claim
from thalweg.claims.engine.contract import Measurement


def good(seed=0, **changes):
    numbers = {
        "lr * trace, largest": 1.9,
        "lr / sharper bound, largest": 0.99,
        "orthogonal": 2 / 9,
        "growth at 0.9": 0.1,
        "growth at 1.1": 10.0,
        "long run at 0.9": 0.1,
        "long run at 1.1": 10.0,
        "distance from the course": 0.01,
    }
    for arm, lrs, test in (
        ("sgd", claim.SGD_LRS, None),
        ("gd", claim.GD_LRS, 1.2),
        ("small start, gd", claim.GD_LRS, 0.5),
    ):
        for lr in lrs:
            trace = 1.5 / lr if arm == "sgd" else 100.0
            error = 1 - 10 * lr + 0.001 * seed if test is None else test
            numbers |= {f"{arm}/{lr:g}/loss": 1e-7, f"{arm}/{lr:g}/trace": trace, f"{arm}/{lr:g}/test": error}
    for arm in ("relu, sgd", "relu, gd"):
        numbers |= {f"{arm}/{lr:g}/{name}": 1e-4 for lr in claim.RELU_LRS for name in ("loss", "trace", "test")}
    return Measurement(numbers | changes)


def verdict(**changes):
    return claim.judge([good(seed, **changes) for seed in range(3)])


def test_smoke_runs():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["orthogonal"] == pytest.approx(2 / 9)
    assert found.numbers["lr * trace, largest"] <= 2
    assert claim.judge([found]).because


def test_all_that_is_asked_for():
    found = verdict()
    assert found.word == "reproduced" and found.explained_by is None


def test_a_smaller_start_that_does_as_well_is_named():
    found = verdict(**{f"small start, gd/{lr:g}/test": 0.1 for lr in claim.GD_LRS})
    assert found.word == "reproduced" and "smaller start" in found.explained_by


@pytest.mark.parametrize(
    ("changes", "word", "reason"),
    [
        ({"growth at 1.1": 0.9}, "not reproduced at this scale", "computed wrongly"),
        ({"long run at 0.9": 1.1}, "not reproduced at this scale", "computed wrongly"),
        ({"orthogonal": 0.2}, "not reproduced at this scale", "computed wrongly"),
        ({f"sgd/{claim.SGD_LRS[3]:g}/trace": 2.2 / claim.SGD_LRS[3]}, "not reproduced at this scale", "feel the bound"),
        ({f"gd/{lr:g}/trace": 1.0 for lr in claim.GD_LRS}, "not reproduced at this scale", "feel the bound"),
        ({f"sgd/{lr:g}/test": 1 + lr for lr in claim.SGD_LRS}, "partly", "slack"),
        ({f"sgd/{lr:g}/loss": math.inf for lr in claim.SGD_LRS[5:]}, "partly", "slack"),
        ({f"gd/{claim.GD_LRS[0]:g}/test": 0.1}, "partly", "too few seeds"),
    ],
)
def test_one_part_failing(changes, word, reason):
    found = verdict(**changes)
    assert found.word == word and reason in found.because.split("Likely reason:")[1]


def test_runs_that_do_not_arrive_count_in_no_bound():
    lr = claim.SGD_LRS[0]
    assert verdict(**{f"sgd/{lr:g}/loss": 1e-2, f"sgd/{lr:g}/trace": 1e9}).word == "reproduced"
