"""The claim of frugal: its smallest run, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest

from thalweg.claims import frugal as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values())) and chosen.keys() == {claim.ONE_RATE, *claim.ARMS}
    assert {curve.label for curve in found.curves} == set(claim.ARMS)
    assert found.numbers["FRUGAL, columns: state over AdamW's"] == pytest.approx(0.25, abs=0.01)
    assert claim.judge([found]).word in ("partly", "not reproduced at this scale")  # one seed shows no difference


def made(
    frugal: tuple[float, float, float] = (2.0, 2.0, 2.0),
    alone: float = 2.1,
    adamw: float = 2.0,
    sign: float = 2.05,
    noise: float = 0.0001,
) -> list[Measurement]:
    arms = {f"FRUGAL, {name}": loss for name, loss in zip(claim.SPLITS, frugal, strict=True)}
    arms |= {f"{name} alone": alone for name in claim.SPLITS} | {"AdamW": adamw, "sign descent": sign}
    shares = {f"FRUGAL, {name}: {claim.STATE}": 0.25 for name in claim.SPLITS}
    return [
        Measurement({f"{arm}: validation loss": loss + noise * seed * len(arm) for arm, loss in arms.items()} | shares)
        for seed in range(4)
    ]


@pytest.mark.parametrize(
    ("settings", "word", "words", "explained"),
    [
        ({}, "reproduced", "differ by 0.000 (less than 0.030)", False),
        ({"sign": 2.0}, "reproduced", "25%, 25%, 25%", True),
        ({"frugal": (1.9, 1.98, 2.0), "sign": 1.9}, "partly", "the gain itself is small here", True),
        ({"adamw": 1.97}, "partly", "which the last per cent needs", False),
        ({"adamw": 1.9, "frugal": (1.9, 1.98, 2.0)}, "partly", "more; signs alone", False),
        ({"alone": 2.0}, "not reproduced at this scale", "loses little", False),
        ({"noise": 0.1}, "not reproduced at this scale", "loses little", False),  # intervals as wide as the gains
        ({"frugal": (2.2, 2.0, 2.0)}, "not reproduced at this scale", "loses little", False),  # one split fails
    ],
)
def test_verdicts(settings: dict, word: str, words: str, explained: bool) -> None:
    verdict = claim.judge(made(**settings))
    assert verdict.word == word and words in verdict.because and bool(verdict.explained_by) is explained
