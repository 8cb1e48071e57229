"""The claim of lion: its smallest run, how settings are chosen, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest
import torch

from thalweg.claims import lion as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    assert all(len(rows) == 4 for row in chosen.values() for rows in row["trials"].values())
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert all(len(curve.x) == len(curve.y) for curve in found.curves)
    assert found.numbers["batch 32, Lion: state bytes a weight"] == pytest.approx(4, abs=0.01)
    assert found.numbers["batch 32, AdamW: state bytes a weight"] == pytest.approx(8, abs=0.01)


def test_data() -> None:
    train, labels = claim._data("all", None)
    assert train.shape == (4000, 196) and len(labels) == 4000 and claim._data("test", None)[0].shape == (1000, 196)
    assert torch.equal(train[:3500], claim._data("train", None)[0])


def test_grids_widen_for_both(monkeypatch) -> None:
    """AdamW's best rate lies beyond its grid, Lion's within: both get as many more."""
    asked: list[int] = []

    def scores(settings, *_):
        asked.append(len(settings))
        best = {"AdamW": -0.5, "Lion": -3.6}
        return {s: (abs(s.exponent - best[s.arm]) + s.decay, 0.0) for s in settings}

    monkeypatch.setattr(claim, "_scores", scores)
    best, trials = claim._tuned(claim.SIZES["cpu"], 16, 1, (0,))
    assert [(s.arm, s.exponent, s.decay) for s in best] == [("AdamW", -0.5, 0.0), ("Lion", -3.5, 0.0)]
    assert asked == [20, 4, 4, 4] and len(trials["Lion"]) == len(trials["AdamW"]) == 16


def made(small: float, large: float, noise: float = 0.0005) -> list[Measurement]:
    """Three seeds: by how much Lion is better at batches of 16 and 1024."""
    rows = []
    for wave in (-1, 0, 1):
        numbers = {}
        for batch, gain in ((16, small), (64, 0.0), (1024, large)):
            for arm in claim.ARMS:
                about = f"batch {batch}, {arm}"
                numbers[f"{about}: test accuracy"] = 0.9 + (gain + noise * wave if arm == "Lion" else 0.0)
                numbers[f"{about}: state bytes a weight"] = 4.0 if arm == "Lion" else 8.0
        rows.append(Measurement(numbers))
    return rows


@pytest.mark.parametrize(
    ("small", "large", "word", "words"),
    [
        (0.0, 0.01, "reproduced", "+1.00 points (+0.88 to +1.12)"),
        (0.01, 0.01, "partly", "doesn't depend on the batch size"),
        (-0.01, 0.0, "partly", "only catches up"),
        (0.0, 0.0, "not reproduced at this scale", "ends as well with both"),
        (0.0, -0.01, "not reproduced at this scale", "AdamW's smaller steps"),
    ],
)
def test_verdicts(small: float, large: float, word: str, words: str) -> None:
    measurements = made(small, large)
    for wave, m in zip((1, -2, 1), measurements, strict=True):  # seeds differ from batch to batch
        m.numbers["batch 16, AdamW: test accuracy"] += 0.0001 * wave
    verdict = claim.judge(measurements)
    assert verdict.word == word and words in verdict.because
    assert "4 bytes a weight for Lion, 8 for AdamW" in verdict.because


def test_noise_hides_a_gain() -> None:
    measurements = made(0.0, 0.01, noise=0.02)
    for wave, m in zip((1, -2, 1), measurements, strict=True):
        m.numbers["batch 16, AdamW: test accuracy"] += 0.01 * wave
    assert claim.judge(measurements).word == "not reproduced at this scale"
