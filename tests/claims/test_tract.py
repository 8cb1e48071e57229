"""The claim of tract: its smallest run, its control, and every way its verdict can turn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from thalweg.claims import tract as claim
from thalweg.claims.engine.contract import Measurement
from thalweg.nn import tract_weight_grad


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = claim.choose("smoke", report=quiet)
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert all(isinstance(value, float) and not math.isnan(value) for value in found.numbers.values())
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert claim.judge([found]).word


def test_seeds_that_decide_chose_nothing() -> None:
    assert claim.TUNING_SEED not in {seed for scale in claim.SCALES.values() for seed in scale.seeds}


def test_the_control_starts_as_the_layer_and_steps_as_tract_with_the_moments_of_all_images() -> None:
    torch.manual_seed(0)
    layer, images = nn.Conv2d(3, 4, 4, stride=4, bias=False), torch.randn(6, 3, 8, 8)
    expected, start = layer(images), layer.weight.detach().clone()
    control = claim.Whitened(layer, images)
    out = control(images)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    out.square().sum().backward()
    step = (
        layer.weight.grad.flatten(1) @ control.root
    ).detach()  # what a step on the whitened weight does to the weight
    patches = nn.functional.unfold(images, 4, stride=4).mT.flatten(0, 1)
    grad = (2 * patches @ start.flatten(1).T).detach()
    torch.testing.assert_close(step, tract_weight_grad(patches, grad, claim.LAM), rtol=1e-3, atol=1e-4)


def test_speed_up() -> None:
    assert claim.speed_up([0.3, 0.4, 0.5], [0.5, 0.6, 0.6]) == 4.0
    assert claim.speed_up([0.3, 0.4, 0.5], [0.4, 0.45, 0.55]) == pytest.approx(12 / 7.5)
    assert claim.speed_up([0.3, 0.5, 0.4], [0.4, 0.6, 0.6]) == pytest.approx(6 / 4.5)  # plain training is best at 6
    assert claim.speed_up([0.3, 0.4, 0.5], [0.4, 0.45, 0.49]) == 0.0


def made(losing: int, place: int = 0, whitened: float = 0.5) -> Measurement:
    """TrAct reaches plain training's best at 6 epochs, but in as many cells as are ``losing``."""
    numbers: dict[str, float] = {}
    for number, cell in enumerate(claim.CELLS):
        name = ", ".join(cell)
        ours = (0.4, 0.5, 0.55) if number >= losing else (0.3, 0.35, 0.4)
        numbers |= {f"{name}, plain, {e} epochs": a for e, a in zip((3, 6, 12), (0.3, 0.4, 0.5), strict=True)}
        numbers |= {f"{name}, TrAct, {e} epochs": a for e, a in zip((3, 6, 9), ours, strict=True)}
        numbers[f"{name}, whitened, 9 epochs"] = whitened + 0.001 * place
    return Measurement(numbers)


def judged(losing: int, **changes: float):
    return claim.judge([made(losing, place, **changes) for place in range(3)])


@pytest.mark.parametrize(
    ("losing", "word"),
    [
        (0, "reproduced"),
        (2, "reproduced"),
        (3, "partly"),
        (4, "partly"),
        (5, "not reproduced at this scale"),
        (6, "not reproduced at this scale"),
    ],
)
def test_words(losing: int, word: str) -> None:
    verdict = judged(losing, whitened=0.3)
    assert verdict.word == word and verdict.explained_by is None
    assert f"{6 - losing} of 6 cells count" in verdict.because
    assert ("2.00 times" in verdict.because) == (losing < 6)


def test_whitening_may_explain_it() -> None:
    assert judged(0, whitened=0.55).explained_by == "whitening the first layer's inputs once"
    assert judged(3, whitened=0.549).explained_by is not None
    assert judged(0, whitened=0.5).explained_by is None


def test_a_cell_that_is_fast_but_ends_lower_does_not_count() -> None:
    rows = [made(0, place) for place in range(3)]
    for place, row in enumerate(rows):
        for cell in claim.CELLS[:3]:
            row.numbers[f"{', '.join(cell)}, TrAct, 9 epochs"] = 0.45 + 0.001 * place  # type: ignore[index]
    assert claim.judge(rows).word == "partly"
