"""The claim of adadagrad: its smallest run, its arms, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest

from thalweg.claims import adadagrad as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["regression, batch 16: steps"] == 8  # 128 samples
    assert found.numbers["regression, doubling: steps"] == pytest.approx(
        claim._train("regression", "eta 0.5", 0.1, claim.TUNING_SEED, claim.SIZES["smoke"], 1).steps, abs=1
    )


def sizes(arm: str, samples: int, examples: int = 64, pace: int = 1) -> list[int]:
    return [len(rows) for rows, _ in claim._batches(arm, examples, 0, samples, pace)]


def test_arms_choose_their_sizes() -> None:
    assert sizes("batch 16", 128) == [16] * 8
    assert sizes("batch 3500", 128) == [64, 64]  # all there is
    assert sizes(claim.DOUBLING, 200, pace=40) == [8, 8, 8, 8, 8, 16, 8, 16, 32, 16, 64, 64]
    steps = len(sizes(claim.DOUBLING, 2000, pace=60))
    pace = claim._pace(steps, 2000, 64)
    assert abs(len(sizes(claim.DOUBLING, 2000, pace=pace)) - steps) <= 1


def test_interpolation() -> None:
    points = [(0.0, 1.0), (2.0, 3.0), (4.0, 2.0)]
    assert [claim._interpolated(points, x) for x in (-1.0, 0.0, 1.0, 3.0, 9.0)] == [1.0, 1.0, 2.0, 2.5, 2.0]


GOOD = {
    "eta 0.5": (0.91, 100, -1.0), "eta 0.9": (0.85, 200, -1.0), "batch 16": (0.911, 8000, -0.5), "batch 128": (0.905, 1000, -0.5),
    "batch 1024": (0.85, 130, -0.6), claim.DOUBLING: (0.88, 100, -1.0),
}  # fmt: skip


def made(**changes: dict[str, tuple[float, float, float]]) -> list[Measurement]:
    """Three seeds; ``changes`` of one problem's arms as (accuracy, steps, slope)."""
    seeds = []
    for seed in (1, 2, 3):
        numbers = {}
        for name in claim.PROBLEMS:
            for place, (arm, values) in enumerate((GOOD | changes.get(name, {})).items()):
                noise = 0.001 * ((seed * (place % 2 + 1)) % 3 - 1)
                for what, value in zip(("test accuracy", "steps", "slope"), values, strict=True):
                    numbers[f"{name}, {arm}: {what}"] = value + (noise if what == "test accuracy" else 0)
        seeds.append(Measurement(numbers))
    return seeds


def both(**arms: tuple[float, float, float]) -> list[Measurement]:
    change = {key.replace("_", " ").replace("eta 05", "eta 0.5"): value for key, value in arms.items()}
    return made(regression=change, network=change)


def test_reproduced() -> None:
    verdict = claim.judge(made())
    assert verdict.word == "reproduced" and verdict.explained_by is None
    assert (
        "eta 0.5 91.00% in 100 steps (slope -1.00)" in verdict.because
        and "the best constant one is batch 16" in verdict.because
    )
    same = claim.judge(both(doubling=(0.91, 100, -1.0)))
    assert same.word == "reproduced" and same.explained_by == "batches that double at a fixed pace"


@pytest.mark.parametrize(
    "changes",
    [
        {"regression": {"eta 0.5": (0.90, 100, -1.0)}},  # one problem only
        {"network": {"eta 0.5": (0.91, 2500, -1.0)}},
        {name: {"eta 0.5": (0.91, 100, -0.4)} for name in claim.PROBLEMS},  # a alone: not steeper
        {
            name: {"batch 1024": (0.9105, 100, -0.6)} for name in claim.PROBLEMS
        },  # a alone: a large constant batch is as good
    ],
)
def test_partly(changes) -> None:
    verdict = claim.judge(made(**changes))
    assert verdict.word == "partly" and "Likely reason: on the " in verdict.because


@pytest.mark.parametrize("eta", [(0.90, 100, -1.0), (0.91, 2500, -1.0)], ids=["less accurate", "not quicker"])
def test_not_reproduced(eta) -> None:
    verdict = claim.judge(both(eta_05=eta))
    assert verdict.word == "not reproduced at this scale" and "Likely reason" in verdict.because
