"""The claim of adamp: its smallest run, and every way its verdict can turn."""

from __future__ import annotations

import math

import pytest

from thalweg.claims import adamp as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = claim.choose("smoke", report=quiet)
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert all(isinstance(value, float) and not math.isnan(value) for value in found.numbers.values())
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["SGDP: share projected, conv 1"] > 0.9
    assert found.numbers["SGDP without normalization: share projected, conv 1"] < 0.5
    measured = {c.label: c.y for c in found.curves if c.panel == "sphere" and c.role == "measured"}
    theory = {c.label: c.y for c in found.curves if c.panel == "sphere" and c.role == "theory"}
    for label, values in measured.items():
        assert values == pytest.approx(theory[label], rel=1e-9)
    assert claim.judge([found]).word in ("partly", "not reproduced at this scale")  # one seed shows no difference


def test_seeds_that_decide_chose_nothing() -> None:
    assert claim.TUNING_SEED not in {seed for scale in claim.SCALES.values() for seed in scale.seeds}


def made(place: int = 0, **changes: float) -> Measurement:
    """A measurement in which all parts hold."""
    numbers: dict[str, float] = {}
    for plain, projected in claim.FAMILIES.items():
        for conv in claim.CONVOLUTIONS:
            numbers |= {
                f"{plain}: growth, {conv}": 10.0,
                f"{projected}: growth, {conv}": 1.0,
                f"{plain}: last steps, {conv}": 0.01,
                f"{projected}: last steps, {conv}": 0.02,
                f"{projected}: share projected, {conv}": 1.0,
                f"{projected} without normalization: share projected, {conv}": 0.02,
            }
        numbers |= {f"{plain}: test accuracy": 0.95, f"{projected}: test accuracy": 0.96 + 0.001 * place}
    assert set(changes) <= set(numbers)
    return Measurement(numbers | changes)


def judged(**changes: float):
    return claim.judge([made(place, **changes) for place in range(5)])


def test_reproduced() -> None:
    verdict = judged()
    assert verdict.word == "reproduced"
    assert "10.0 times as much" in verdict.because and "SGDP minus SGD +1.20 points" in verdict.because


def test_one_family_is_enough_for_accuracy() -> None:
    assert judged(**{"SGD: test accuracy": 0.962}).word == "reproduced"  # equal in the mean


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SGD: test accuracy": 0.97}, "SGDP decays projected weights ten times less"),
        ({"SGD: test accuracy": 0.962, "AdamW: test accuracy": 0.962}, "doesn't suffer"),
    ],
)
def test_partly(changes: dict[str, float], reason: str) -> None:
    verdict = judged(**changes)
    assert verdict.word == "partly" and reason in verdict.because


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"AdamW: growth, conv 2": 5.0}, "too short"),
        ({"AdamP: last steps, conv 1": 0.01}, "too short"),
        ({"SGDP: share projected, conv 2": 0.95}, "misreads"),
        ({"AdamP without normalization: share projected, conv 1": 0.05}, "misreads"),
    ],
)
def test_not_reproduced(changes: dict[str, float], reason: str) -> None:
    verdict = judged(**changes)
    assert verdict.word == "not reproduced at this scale" and reason in verdict.because


def test_one_odd_seed_decides_nothing_about_dynamics() -> None:
    rows = [made(place) for place in range(4)] + [made(4, **{"SGD: growth, conv 1": 1.0})]
    assert claim.judge(rows).word == "reproduced"
