"""The claim of adabelief: its smallest run, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest
import torch

from thalweg.claims import adabelief as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


@pytest.fixture(scope="module")
def chosen() -> dict:
    return json.loads(json.dumps(claim.choose("smoke", report=quiet)))


def test_the_smallest_run(chosen) -> None:
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {f"{arm}: test accuracy" for arm in claim.ARMS} <= set(found.numbers)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["AdaBelief: floor"] == pytest.approx(3.16e-7, rel=0.01)


def test_the_functions() -> None:
    points = torch.tensor([[[3.0, 2.0], [3.0, 2.0], [1.0, 1.0], [3.0, 0.5]]], dtype=torch.float64)
    assert claim._values(points).tolist() == [[5.0, 5.1, 0.0, 0.0]]
    assert claim._functions("SGD", 360)["Beale"][0] == 252  # heavy ball from (1, 1) at rate 0.001


def made(
    sgd: float, adam: float, adamw: float, belief: float, control: float, noise: float = 0.001
) -> list[Measurement]:
    """Three seeds whose accuracies are as given, up to noise that differs between the arms."""
    means = dict(zip(claim.ARMS, (sgd, adam, adamw, belief, control), strict=True))
    return [
        Measurement({f"{arm}: test accuracy": value + noise * ((seed * (place + 2)) % 3 - 1)
                     for place, (arm, value) in enumerate(means.items())})
        for seed in (1, 2, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("means", "word", "explained"),
    [
        ((0.96, 0.94, 0.94, 0.96, 0.94), "reproduced", False),
        ((0.96, 0.94, 0.94, 0.97, 0.97), "reproduced", True),
        ((0.96, 0.94, 0.96, 0.96, 0.94), "partly", False),  # above Adam only
        ((0.98, 0.94, 0.94, 0.96, 0.94), "partly", False),  # above both, but below SGD
        ((0.94, 0.94, 0.94, 0.94, 0.94), "not reproduced at this scale", False),
        ((0.96, 0.94, 0.96, 0.94, 0.94), "not reproduced at this scale", False),
    ],
)
def test_verdicts(means, word: str, explained: bool) -> None:
    verdict = claim.judge(made(*means))
    assert verdict.word == word and bool(verdict.explained_by) == explained
    assert "AdaBelief" in verdict.because and (word == "reproduced" or "Likely reason" in verdict.because)


def test_as_good_as_sgd_where_adam_is_not() -> None:
    noisy = made(0.96, 0.95, 0.95, 0.96, 0.95)
    for m, wild in zip(noisy, (-0.02, 0.0, 0.02), strict=True):  # no interval of AdaBelief's is above anything
        m.numbers["AdaBelief: test accuracy"] += wild
    verdict = claim.judge(noisy)
    assert verdict.word == "partly" and "as good as SGD, not better than Adam" in verdict.because


def test_no_difference_is_said() -> None:
    assert "no difference is shown" in claim.judge(made(0.94, 0.94, 0.94, 0.94, 0.94, noise=0.01)).because
    assert "no difference is shown" in claim.judge(made(0.99, 0.9, 0.9, 0.95, 0.9)[:1]).because  # one seed
