"""The claim of normalized-lr-gd: its smallest run, and every way its verdict can turn."""

from __future__ import annotations

import math

import pytest

from thalweg.claims import normalized_lr_gd as claim
from thalweg.claims.engine.contract import Measurement


@pytest.fixture(scope="module")
def smoke() -> Measurement:
    return claim.run("smoke", 0, report=lambda share, doing="": None)


def test_the_smallest_run(smoke: Measurement) -> None:
    assert all(isinstance(value, float) and not math.isnan(value) for value in smoke.numbers.values())
    assert smoke.numbers["worst case, plain 100, n 1000"] == 308
    assert smoke.numbers["worst case, batch perceptron, n 1000"] == 301
    assert smoke.numbers["bounds exceeded"] == 0
    keys = {panel.key for panel in claim.PANELS}
    assert {curve.panel for curve in smoke.curves} == keys
    assert all(len(curve.x) == len(curve.y) <= 300 for curve in smoke.curves)
    assert {curve.role for curve in smoke.curves} == {"measured", "theory", "control"}
    assert claim.judge([smoke]).word in ("reproduced", "partly")


def test_one_seed_gives_one_set_of_numbers(smoke: Measurement) -> None:
    shares: list[float] = []
    assert claim.run("smoke", 0, report=lambda share, doing="": shares.append(share)) == smoke
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    other = claim.run("smoke", 1, report=lambda share, doing="": None)
    assert other.numbers["3/8, plain 1: highest loss"] != smoke.numbers["3/8, plain 1: highest loss"]
    assert other.numbers["worst case, plain 100, n 100"] == smoke.numbers["worst case, plain 100, n 100"]


def made(rising: int = 4, gain: float = 0.5, **changes: float) -> Measurement:
    """A measurement in which all parts hold: larger steps on ``rising`` sets, normalized counts ``gain`` times plain ones."""
    numbers = {"bounds exceeded": 0.0}
    for key, slope in claim.GROWTH.items():
        for n in (10, 100, 1000):
            numbers[f"worst case, {key}, n {n}"] = 2.0 * (n / 1000) ** slope
    for n in (10, 100, 1000):
        numbers[f"worst case, plain 100, n {n}"] = 308.0 * n / 1000
    numbers |= {f"worst case, {key}, n 1000": float(count) for key, count in claim.PUBLISHED.items()}
    for place, name in enumerate(claim.SETS):
        for step in (0.1, 1.0, 10.0):
            good = place < rising
            numbers[f"{name}, plain {step:g}: count"] = 100 / step if good else 100 * step
            numbers[f"{name}, plain {step:g}: highest loss"] = step
            numbers[f"{name}, normalized {step:g}: count"] = gain * (10.0 if good else 10 * step)
    return Measurement(numbers | changes)


def test_reproduced() -> None:
    verdict = claim.judge([made()])
    assert verdict.word == "reproduced"
    assert "slopes 1.000 (plain) and 0.000 (normalized)" in verdict.because
    assert "0.50 on 3/8, 20:1 (at most 0.8)" in verdict.because
    assert claim.judge([made(rising=3, gain=0.8)]).word == "reproduced"


def test_not_reproduced() -> None:
    for change in (
        {"worst case, normalized 1, n 1000": 17.0},
        {"worst case, batch perceptron, n 100": 0.3},
        {"bounds exceeded": 1.0},
    ):
        verdict = claim.judge([made(**change)])
        assert verdict.word == "not reproduced at this scale" and "likely reason" in verdict.because
    assert "counts differ for normalized 1" in claim.judge([made(**{"worst case, normalized 1, n 1000": 17.0})]).because


def test_partly() -> None:
    for measurement, reason in ((made(rising=2), "room for luck"), (made(gain=0.9), "rare class is no worst case")):
        verdict = claim.judge([measurement])
        assert verdict.word == "partly" and reason in verdict.because
    for change in (
        {"3/8, plain 10: highest loss": 0.5, "0/1, plain 10: highest loss": 0.5},  # a loss that falls
        {f"{name}, plain {step:g}: count": 3000.0 for name in ("0/1", "3/8") for step in (0.1, 1, 10)},  # no rank
    ):
        assert claim.judge([made(**change)]).word == "partly"


def test_seeds_are_put_together_by_median_and_majority() -> None:
    assert claim.judge([made(gain=0.5), made(gain=0.6), made(gain=2.0)]).word == "reproduced"
    assert claim.judge([made(gain=0.5), made(gain=0.9), made(gain=2.0)]).word == "partly"
    assert claim.judge([made(), made(), made(rising=0)]).word == "reproduced"
    assert claim.judge([made(), made(rising=0), made(rising=0)]).word == "partly"
