"""The claim of normuon: its smallest run, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest
import torch

from thalweg.claims import normuon as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.claims.engine.language_model import NEVER


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["without memory: spread of row norms"] < 1e-5  # all rows are equally long
    assert found.numbers["Muon: spread of row norms"] > 0.1
    assert claim.judge([found]).word in ("partly", "not reproduced at this scale", "reproduced")
    assert f"{NEVER}" in claim.RULE


def test_what_updates_are_measured_by() -> None:
    update = torch.diag(torch.tensor([3.0, 1.0, 1.0, 0.5]))[:, :3]
    assert claim.row_spread(update) == pytest.approx((11 / 4 - (5 / 4) ** 2) ** 0.5 / (5 / 4))  # of 3, 1, 1 and 0
    assert claim.row_spread(torch.ones(4, 2)) == 0.0 == claim.row_spread(torch.zeros(4, 2))
    wide = torch.diag(torch.linspace(10, 1, 10))
    assert claim.condition(wide) == pytest.approx(10 / 2)  # the ninth of ten
    assert claim.condition(torch.zeros(3, 2)) == 0.0 and claim.condition(torch.ones(3, 2)) == 1e6


def made(
    shares: tuple[float, ...] = (0.9,) * 5,
    rows: float = 0.2,
    spectrum: float = 4.0,
    control: float = 1.0,
) -> list[Measurement]:
    return [
        Measurement({
            "NorMuon: spread of row norms": rows, "Muon: spread of row norms": 0.5,
            "NorMuon: largest over 0.9-th singular value": spectrum, "Muon: largest over 0.9-th singular value": 2.0,
            "NorMuon: share of the steps to Muon's loss": share,
            "without memory: share of the steps to Muon's loss": control,
            "NorMuon: validation loss": 2.0 + 0.01 * seed, "Muon: validation loss": 2.05 + 0.012 * seed,
        })
        for seed, share in enumerate(shares)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "word", "words", "explained"),
    [
        ({}, "reproduced", "0.90 (0.95), below 1 on 5 of 5 seeds", False),
        ({"control": 0.91}, "reproduced", "0.91 without memory", True),
        ({"shares": (0.8, 0.8, 0.8, 0.8, 1.05)}, "reproduced", "below 1 on 4 of 5", False),
        ({"shares": (0.5, 0.8, 0.8, 1.05, 1.05)}, "partly", "the gain is small here", False),  # on 3 seeds only
        ({"shares": (0.97,) * 5}, "partly", "the gain is small here", False),
        ({"rows": 0.3}, "partly", "rows differ otherwise than the paper says", False),
        ({"spectrum": 7.0}, "partly", "rows differ otherwise than the paper says", False),
        ({"shares": (1.05,) * 5}, "partly", "even rows make little difference", False),
        ({"shares": (0.97,) * 5, "rows": 0.3}, "partly", "the gain is small here", False),
        ({"shares": (1.05,) * 5, "rows": 0.3}, "not reproduced at this scale", "doesn't even out the rows", False),
        ({"shares": (1.05,) * 5, "control": 0.5}, "partly", "even rows make little difference", False),
    ],
)
def test_verdicts(settings: dict, word: str, words: str, explained: bool) -> None:
    verdict = claim.judge(made(**settings))
    assert verdict.word == word and words in verdict.because and bool(verdict.explained_by) is explained
