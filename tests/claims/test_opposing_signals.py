import math

import pytest
import torch

from thalweg.claims import opposing_signals as claim
from thalweg.claims.engine.contract import Measurement

GOOD = {
    "toy: cells right": 1.0,
    "toy: off": 0.04,
    "swing/descent": 2.0,
    **{f"swing/{name}": 0.5 for name in claim.RIVALS},
    **{f"progress/{name}": 0.95 for name in claim.RIVALS},
    "swing/averaged": 0.1,
    "swing/RMSprop": 0.9,
    "found: cosine": -0.5,
    "found: correlation": -0.8,
    "large losses: cosine": 0.1,
    "large losses: correlation": 0.5,
}
for cell, (edge, share, correlation, cosine) in {
    "0/0.5": (1.9, 0.0, 0.0, 0.0),
    "10/0.05": (0.8, 0.01, 0.8, -0.9),
    "10/0.2": (3.0, 0.9, -0.9, -0.6),
    "20/0.5": (math.inf, 0.0, 0.0, 0.0),
}.items():
    GOOD |= {f"edge/{cell}": edge, f"share/{cell}": share, f"correlation/{cell}": correlation, f"cosine/{cell}": cosine}


def verdict(changes):
    return claim.judge([Measurement(GOOD | changes)] * 3)


def test_smoke_runs():
    found = claim.run("smoke", 0, report=lambda share, doing="": None)
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert found.numbers["toy: cells right"] == 1
    assert found.numbers["edge/10/0.2"] > found.numbers["edge/10/0.05"]
    assert claim.judge([found]).because


def test_controls_decide_nothing():
    assert verdict({"swing/averaged": 5.0, "swing/RMSprop": 5.0}).word == "reproduced"


def test_averaged_steps_and_largest_changes():
    weights, step = [torch.zeros(1)], claim._averaged(1.0)
    for slope in (1.0, -1.0):
        step(weights, (torch.tensor([slope]),))
    assert weights[0].item() == pytest.approx(-0.1 - (0.09 - 0.1))
    courses = [torch.arange(13.0), torch.tensor([0.0] * 12 + [5.0])]
    assert claim._swings(courses) == ((10.0, 12.0), (1.0, 5.0))


def test_all_that_is_asked_for():
    """The cell without planting and the one that diverged are left out."""
    found = verdict({})
    assert found.word == "reproduced" and "3 cells at the edge" in found.because


@pytest.mark.parametrize(
    ("changes", "word", "reason"),
    [
        ({"toy: cells right": 0.9}, "not reproduced at this scale", "toy"),
        ({"toy: off": 0.06}, "not reproduced at this scale", "toy"),
        ({"share/10/0.2": 0.5}, "not reproduced at this scale", "too weak"),
        ({"correlation/10/0.2": -0.4}, "not reproduced at this scale", "too weak"),
        ({"cosine/10/0.2": -0.2}, "not reproduced at this scale", "too weak"),
        ({"share/10/0.05": 0.2}, "not reproduced at this scale", "too weak"),
        ({"swing/sign": 2.1}, "partly", "opposed gradients cancel"),
        ({"swing/sign": 2.1, "swing/averaged": 1.9}, "partly", "no average explains it"),
        ({"swing/clipped": 2.1, "swing/averaged": 2.2, "swing/RMSprop": 3.0}, "partly", "no average explains it"),
        ({"found: cosine": -0.2}, "partly", "no such pair"),
        ({"large losses: cosine": -0.6}, "partly", "no such pair"),
        ({"edge/10/0.2": 1.0}, "not testable at this scale", ""),
    ],
)
def test_one_part_failing(changes, word, reason):
    found = verdict(changes)
    assert found.word == word and reason in found.because
