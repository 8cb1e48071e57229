"""The claim of svd-free-dct: its smallest run, how projections are measured, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest
import torch

from thalweg.claims import svd_free_dct as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "SHAPE", (64, 64))
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    errors = {name: found.numbers[f"{name}: projection error, rank a quarter"] for name in claim.BASES.values()}
    assert errors["singular vectors"] == min(errors.values()) and errors["random, not picked"] == max(errors.values())
    assert found.numbers[f"cosines: {claim.STATE}"] < found.numbers[f"singular vectors: {claim.STATE}"]
    assert found.numbers[claim.TIME] > 0 and claim.judge([found]).because


def test_projection_errors() -> None:
    x = torch.diag(torch.tensor([4.0, 2.0, 2.0, 1.0]))
    assert claim.projection_error(x, "svd", 1) == pytest.approx(3 / 5)
    assert all(claim.projection_error(x, basis, 4) < 1e-7 for basis in claim.BASES)
    level = torch.ones(5, 4)  # the first cosine, and nothing else
    assert claim.projection_error(level, "dct2", 1) < 1e-7 < 0.1 < claim.projection_error(level, "dct3", 1)
    errors = claim.ProjectionErrors()
    errors.add(x.T[:2], 0)
    assert errors.mean("svd", 1 / 4) == pytest.approx(2 / 20**0.5) and len(errors.found) == 15


def made(
    rare: float = 2.0, often: float = 2.0, share: float = 0.2, control: float = 0.02, noise: float = 0.001
) -> list[Measurement]:
    rest = {f"{name}: projection error, rank a quarter": 0.5 for name in claim.BASES.values()}
    rest |= {f"{name}: {claim.STATE}": 0.25 for name in claim.NAMES.values()}
    arms = {"cosines, every 50 steps": rare, "cosines, every step": often, "random, every step": often + control}
    arms |= {"singular vectors, every 50 steps": 2.0, "singular vectors, every step": 2.0, "AdamW": 2.0}
    return [
        Measurement(
            {f"{arm}: validation loss": loss + noise * seed for arm, loss in arms.items()}
            | {**rest, claim.TIME: share + 0.1 * seed}
        )
        for seed in range(3)
    ]


NOT = "not reproduced at this scale"


@pytest.mark.parametrize(
    ("settings", "word", "words", "explained"),
    [
        ({}, "reproduced", "Picking takes 0.20 of the time", False),
        ({"control": 0.004}, "reproduced", "+0.004 (+0.004 to +0.004)", True),
        ({"rare": 2.015, "often": 1.9}, "reproduced", "+0.75% (every 50 steps) and -5.00% (every step)", False),
        ({"share": 0.4}, "partly", "Gram matrix are cheap", False),
        ({"often": 2.05}, "partly", "few strong directions", False),
        ({"rare": 2.05, "share": 0.4, "control": 0.0}, "partly", "few strong directions", True),
        ({"rare": 2.07, "control": 0.0}, NOT, "little structure", False),
    ],
)
def test_verdicts(settings: dict, word: str, words: str, explained: bool) -> None:
    verdict = claim.judge(made(**settings))
    assert verdict.word == word and words in verdict.because and bool(verdict.explained_by) is explained
