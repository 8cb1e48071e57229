"""The claim of gradient-noise: its smallest run, its arms, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest
import torch

from thalweg.claims import gradient_noise as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert all(len(curve.x) == len(curve.y) for curve in found.curves)
    assert {f"{start}, {arm}: test accuracy" for start in claim.STARTS for arm in claim.ARMS} <= set(found.numbers)


def test_arms_have_as_much_noise() -> None:
    chosen = {
        "zero, without noise": {"lr": 0.3, "eta": 0.0, "clip": 1e9},
        "zero, with noise": {"lr": 0.2, "eta": 0.01, "clip": 10.0},
    }
    plain, noisy, start, constant = claim._arms("zero", chosen, 4)
    total = 0.01 * sum((1 + t) ** -0.55 for t in range(4))
    assert (plain.lr, plain.eta, plain.start_noise, noisy.eta, noisy.gamma) == (0.3, 0.0, 0.0, 0.01, 0.55)
    assert (start.lr, start.eta, start.clip) == (0.2, 0.0, 10.0)
    assert start.start_noise**2 == pytest.approx(0.04 * total)
    assert constant.gamma == 0 and 4 * constant.eta == pytest.approx(total)


def test_noise_alone_spreads_a_network_of_zeros() -> None:
    """Hidden weights get no gradient at first: what they have after some steps is the noise, as much as foretold."""
    size = claim.Size(3, 1, 8 * claim.BATCH, 1)
    lr, eta = 1e-4, 0.3
    arms = claim._arms("zero", {"zero, without noise": {"lr": lr, "clip": 10.0},
                                "zero, with noise": {"lr": lr, "eta": eta, "clip": 10.0}}, 8)  # fmt: skip
    nets = claim._train("zero", arms, 5, size).nets
    expected = lr * math.sqrt(sum(eta * (1 + t) ** -0.55 for t in range(8)))
    spreads = claim._spread(nets)
    assert spreads[0] == 0 and spreads[1:] == pytest.approx([expected] * 3, rel=0.05)
    middle = [weight.detach() for weight, _ in nets.layers()[1:-1]]
    assert torch.corrcoef(torch.stack([torch.cat([w[k].flatten() for w in middle]) for k in (1, 3)]))[0, 1].abs() < 0.1


def test_what_broke_down_has_a_number() -> None:
    trained = claim._train("He", [claim.Setting(1e30), claim.Setting(0.01)], 0, claim.SIZES["smoke"])
    assert claim._spread(trained.nets)[0] == 1e6 and trained.score(claim._data("test", None))[0] == (1.0, math.inf)


def made(simple: tuple[float, ...], zero: tuple[float, ...], he: tuple[float, ...]) -> list[Measurement]:
    """Three restarts, accuracies of the four arms from each start up to small noise that differs between arms."""
    return [
        Measurement({f"{start}, {arm}: test accuracy": value + 0.002 * ((seed * (place + 1)) % 3 - 1)
                     for start, row in zip(claim.STARTS, (simple, zero, he), strict=True)
                     for place, (arm, value) in enumerate(zip(claim.ARMS, row, strict=True))})
        for seed in (1, 2, 3)
    ]  # fmt: skip


DEAD, FINE = (0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.9, 0.9)


@pytest.mark.parametrize(
    ("simple", "zero", "he", "word", "explained", "words"),
    [
        ((0.6, 0.9, 0.6, 0.9), (0.1, 0.9, 0.1, 0.9), FINE, "reproduced", False, "zero 3 of 3 with and 0 without"),
        ((0.6, 0.9, 0.9, 0.9), (0.1, 0.9, 0.9, 0.9), FINE, "reproduced", True, "+30.00 points"),
        ((0.6, 0.9, 0.9, 0.9), (0.1, 0.9, 0.1, 0.9), FINE, "reproduced", False, "He"),  # better from one of the two
        ((0.6, 0.9, 0.6, 0.9), (0.1, 0.9, 0.1, 0.9), (0.9, 0.85, 0.9, 0.9), "partly", False, "too large for a start"),
        ((0.6, 0.9, 0.9, 0.9), DEAD, FINE, "partly", True, "too slowly"),
        ((0.6, 0.9, 0.6, 0.9), (0.1, 0.4, 0.1, 0.1), FINE, "partly", False, "too slowly"),  # alive, but below a half
        (FINE, (0.1, 0.9, 0.1, 0.1), FINE, "partly", False, "little to gain"),
        (FINE, DEAD, FINE, "not reproduced at this scale", False, "restarts differ more"),
    ],
)
def test_verdicts(simple, zero, he, word: str, explained: bool, words: str) -> None:
    verdict = claim.judge(made(simple, zero, he))
    assert verdict.word == word and bool(verdict.explained_by) == explained and words in verdict.because
