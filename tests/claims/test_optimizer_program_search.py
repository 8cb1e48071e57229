"""The claim of optimizer-program-search: its smallest run, its arms, and every way its verdict can turn."""

from __future__ import annotations

import json
import math
from random import Random

import pytest
import torch

from thalweg.claims import optimizer_program_search as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.optim.program_search import ADAMW


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert claim.judge([found]).word in ("partly", "not reproduced at this scale", "reproduced")


def test_arms_start_from_the_same_program_and_train_as_many() -> None:
    assert claim.adamw(lr=0.001).functional_hash() == ADAMW.functional_hash()
    start = claim.adamw(lr=0.01)
    for propose in (claim._chains(start, Random(0)), claim._settings(0.01, Random(0))):
        programs = claim._distinct(start, propose, 15)
        assert programs[0] is start and all(program.check() for program in programs)
        assert len({program.functional_hash() for program in programs}) == 15
    settings = claim._distinct(start, claim._settings(0.01, Random(1)), 4)
    assert all(len(program) == 10 and "s + " in str(program) for program in settings[1:])


def test_starts_and_parts_are_kept_apart() -> None:
    plan = claim.PLANS["cpu"]
    rows = torch.cat([inputs for inputs, _ in claim._small_digits().values()])
    assert len(rows) == 1797
    first, again, other = (claim.proxy(plan, seed, "validation") for seed in (100, 100, 150))
    assert all(map(torch.equal, first.start, again.start)) and not torch.equal(first.start[0], other.start[0])
    used = [100 * s + k for s in claim.SCALES["cpu"].seeds for k in (0, *range(10, 15), *range(50, 55))]
    assert len(set(used)) == len(used) and 1000 not in used


def made(
    evolution: float = 0.09,
    tuning: float = 0.1,
    random: float = 0.11,
    spared: float = 0.6,
    accuracy: float = 0.94,
    lucky: float = 0.0,
) -> list[Measurement]:
    found = []
    for seed in (1, 2, 3):
        numbers = {
            "evolution: test loss": evolution + (lucky if seed == 1 else 0.0),
            "AdamW's settings: test loss": tuning,
            "random chains: test loss": random,
            "evolution: MNIST accuracy": accuracy,
            "AdamW's settings: MNIST accuracy": 0.93,
        }
        numbers |= {f"proposals: {name}": spared / 3 for name in ("invalid", "unchanged", "cached")}
        found.append(Measurement(numbers))
    return found


@pytest.mark.parametrize(
    ("settings", "word", "words"),
    [
        ({}, "reproduced", "AdamW's settings 0.1000 (higher in 3 of 3 searches), random chains 0.1100 (3 of 3)"),
        ({"lucky": 0.015}, "partly", "as small as the luck of single searches"),
        ({"random": 0.08}, "partly", "as small as the luck of single searches"),
        ({"spared": 0.4}, "partly", "duplicates become many only in long searches"),
        ({"accuracy": 0.92}, "partly", "programs fit the proxy task"),
        ({"accuracy": 0.92, "spared": 0.1}, "partly", "long searches; programs fit"),
        ({"evolution": 0.1}, "not reproduced at this scale", "constants matter most"),
        ({"lucky": 0.1}, "not reproduced at this scale", "(higher in 2 of 3 searches)"),
    ],
)
def test_verdicts(settings: dict, word: str, words: str) -> None:
    verdict = claim.judge(made(**settings))
    assert verdict.word == word and words in verdict.because and verdict.explained_by is None
