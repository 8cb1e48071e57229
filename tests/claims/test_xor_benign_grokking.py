import pytest

from thalweg.claims import xor_benign_grokking as claim
from thalweg.claims.engine.contract import Measurement

GOOD = {
    "training/first": 1.0,
    "training/least": 1.0,
    "training/last": 1.0,
    "test/first": 0.5,
    "test/last": 0.99,
    "linear/first": 0.97,
    "linear/last": 0.06,
    "linear/slope": 1.0,
    "first step above 0.95": 3.0,
    "nearest neighbours": 0.8,
    "test/last: no wrong labels": 1.0,
    "test/last: logistic regression": 0.5,
}


def verdict(changes, seeds=3):
    return claim.judge([Measurement(GOOD)] * (seeds - 1) + [Measurement(GOOD | changes)])


def test_smoke_memorizes_first_and_learns_later():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    numbers = found.numbers
    assert numbers["training/least"] == 1 and 0.4 < numbers["test/first"] < 0.6 and numbers["test/last"] > 0.95
    assert numbers["linear rule's accuracy"] == pytest.approx(0.5)
    assert abs(numbers["test/last: logistic regression"] - 0.5) < 0.1 < numbers["wrong labels"] < 0.2
    assert claim.judge([found]).because
    again = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert again == found


def test_all_that_is_asked_for():
    assert verdict({}).word == "reproduced"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training/least": 0.995}, "given up"),
        ({"linear/first": 0.9}, "too few neurons"),
        ({"linear/slope": 1.2}, "too few neurons"),
        ({"linear/slope": 0.8}, "too few neurons"),
        ({"linear/last": 0.4}, "kept"),
    ],
)
def test_grokking_with_something_else_off_is_partly(changes, reason):
    found = verdict(changes)
    assert found.word == "partly" and reason in found.because


@pytest.mark.parametrize(
    "changes",
    [
        {"training/first": 0.99, "training/least": 0.99},
        {"training/last": 0.99, "training/least": 0.99},
        {"test/first": 0.6},
        {"test/first": 0.4},
        {"test/last": 0.94},
    ],
)
def test_one_seed_that_doesnt_grok_decides(changes):
    found = verdict(changes)
    assert found.word == "not reproduced at this scale" and "Likely reason" in found.because


def test_the_mean_has_its_own_threshold():
    assert claim.judge([Measurement(GOOD | {"test/last": 0.96})] * 3).word == "not reproduced at this scale"


def test_clusters_that_cant_be_learnt_say_nothing():
    found = claim.judge([Measurement(GOOD | {"test/last: no wrong labels": 0.9})] * 3)
    assert found.word == "not testable at this scale"
