"""The claim of auon: its smallest run, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest

from thalweg.claims import auon as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    apart = [value for key, value in found.numbers.items() if "distance of its weights" in key]
    assert len(apart) == 2 and all(0 < value < 1e-2 for value in apart)
    assert claim.judge([found]).word in ("partly", "not reproduced at this scale", "reproduced")


def test_arms_take_their_settings() -> None:
    rates = {task: {arm: 0.1 * (k + 1) for k, arm in enumerate(claim.TUNED)} for task in claim.TASKS}
    model = claim.nn.Sequential(claim.nn.Linear(4, 5), claim.nn.Linear(5, 5), claim.nn.Linear(5, 2))

    def settings(task: str, arm: str) -> tuple:
        optimizer = claim._maker(task, arm, rates)(model)
        hidden, rest = optimizer.param_groups[0], optimizer.param_groups[-1]
        return type(optimizer).__name__, hidden["lr"], rest["lr"], hidden.get("gamma"), hidden.get("normalize")

    assert settings("digits", "AdamW") == ("AdamW", 0.1, 2e-3, None, None)
    assert settings("language", "AdamW") == ("AdamW", 0.1, 0.1, None, None)
    assert settings("language", "Muon")[1:3] == (0.2, 0.1)
    assert settings("digits", claim.RELEASED) == ("AuON", pytest.approx(0.3), 2e-3, 1.5, False)
    assert settings("digits", f"{claim.RELEASED}, gamma 0") == ("AuON", pytest.approx(0.3), 2e-3, 0.0, False)
    assert settings("digits", claim.FIRST)[3:] == (1.0, True)
    assert settings("digits", f"{claim.FIRST}, gamma 0")[1:] == (0.4, 2e-3, 0.0, True)
    assert claim._maker("digits", "hybrid, 5 steps", rates)(model).param_groups[0]["ns_steps"] == 5


GOOD, BAD = (0.93, 2.40), (0.90, 2.60)


def made(cosine: float = 0.0, **arms: tuple[float, float]) -> list[Measurement]:
    """Test accuracy and loss of every arm over three seeds; ``cosine`` lies between the forms and their controls."""
    names = {"released": claim.RELEASED, "first": claim.FIRST, "one": "hybrid, 1 step", "five": "hybrid, 5 steps"}
    values = {"AdamW": GOOD, "Muon": GOOD} | {names[key]: pair for key, pair in arms.items()}
    found = []
    for seed in (1, 2, 3):
        numbers = {}
        for arm in claim.TUNED:
            accuracy, loss = values.get(arm, BAD)
            noise = 0.001 * ((seed * len(arm)) % 3 - 1)
            numbers[f"{arm}: test accuracy"] = accuracy + noise
            numbers[f"{arm}: validation loss of the language model"] = loss + noise
            numbers[f"{arm}: training loss on digits"] = 0.1 + noise
        for k, (control, arm) in enumerate(claim.CONTROLS.items()):
            small = 1e-6 * (seed - 2 + k)
            for what in ("validation loss of the language model", "training loss on digits"):
                numbers[f"{control}: {what}"] = numbers[f"{arm}: {what}"] + small + cosine * (1 + 0.1 * seed)
            numbers[f"{arm}: {claim.APART}"] = 1e-5
        found.append(Measurement(numbers))
    return found


@pytest.mark.parametrize(
    ("settings", "word", "words", "explained"),
    [
        (
            {"released": GOOD, "one": GOOD},
            "reproduced",
            "to AdamW: AuON, released; to Muon: hybrid, 1 step.",
            "momentum",
        ),
        ({"first": GOOD, "five": GOOD, "cosine": 0.01}, "reproduced", "makes a difference in AuON, released", None),
        ({"first": GOOD, "five": GOOD, "cosine": 0.0005}, "reproduced", "makes no difference that shows", "momentum"),
        ({"first": GOOD, "released": GOOD}, "partly", "fewer orthogonalize too little", "momentum"),
        ({"one": GOOD, "five": GOOD}, "partly", "neither form of AuON; to Muon: hybrid, 1 step and hybrid, 5", "Muon"),
        ({}, "not reproduced at this scale", "neither form of AuON; to Muon: neither hybrid.", None),
        ({"first": (0.93, 2.6), "one": (0.9, 2.4)}, "not reproduced at this scale", "neither hybrid", None),  # one task
        ({"first": (0.926, 2.44), "one": (0.924, 2.4)}, "partly", "to Muon: neither", "momentum"),  # within and beyond
    ],
)
def test_verdicts(settings: dict, word: str, words: str, explained: str | None) -> None:
    verdict = claim.judge(made(**settings))
    assert verdict.word == word and words in verdict.because
    assert (explained is None) == (verdict.explained_by is None) and (explained or "") in (verdict.explained_by or "")
