"""The claim of diffgrad: its smallest run, and every way its verdict can turn."""

from __future__ import annotations

import json
import math

import pytest
import torch

from thalweg.claims import diffgrad as claim
from thalweg.claims.engine.contract import Measurement


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def test_the_smallest_run() -> None:
    chosen = json.loads(json.dumps(claim.choose("smoke", report=quiet)))
    found = claim.run("smoke", 0, report=quiet, chosen=chosen)
    assert not any(map(math.isnan, found.numbers.values()))
    assert {curve.panel for curve in found.curves} == {panel.key for panel in claim.PANELS}
    assert 0.5 < found.numbers["mean friction"] < 1
    expected = chosen["lr"]["diffGrad"] * found.numbers["mean friction"]
    assert found.numbers[f"{claim.CONTROL}: learning rate"] == pytest.approx(expected)


def test_the_functions() -> None:
    x = torch.tensor([[-0.3, 0.2], [-0.9, 0.0], [0.4, 0.6]], dtype=torch.float64)
    values = claim.function_values(x)
    expected = [[0.0, 0.05], [0.85, 0.85], [0.35, 0.36]]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    numbers, _ = claim._functions(20, 300, seed=0)
    ends = {arm: numbers[f"function 1, {arm}: end from -1"] for arm in claim.FUNCTION_ARMS}
    assert ends == pytest.approx({"Adam": 0.2, "diffGrad": -0.3, "Adam, half the rate": -0.3}, abs=2e-3)


def test_the_control_is_a_constant_friction() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = claim.maker(claim.CONTROL, 0.01 * 0.7)(model)
    before = model.weight.detach().clone()
    model.weight.grad = torch.tensor([[1e3, -1e3]])
    optimizer.step()
    torch.testing.assert_close((before - model.weight).detach(), torch.tensor([[0.007, -0.007]]), rtol=1e-4, atol=1e-7)


def made(diffgrad: float, adam: float, control: float, noise: float = 0.001) -> list[Measurement]:
    means = dict.fromkeys(claim.ARMS, 0.9) | {"diffGrad": diffgrad, "Adam": adam, claim.CONTROL: control}
    return [
        Measurement({"mean friction": 0.51} | {
            f"{arm}: test accuracy": value + noise * ((seed * (place + 1)) % 3 - 1)
            for place, (arm, value) in enumerate(means.items())
        })
        for seed in (1, 2, 3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("means", "word", "words"),
    [
        ((0.96, 0.94, 0.94), "reproduced", "constant friction of 0.510"),
        ((0.96, 0.94, 0.96), "partly", "makes no difference"),
        ((0.96, 0.96, 0.94), "partly", "no more than Adam's own tuning"),
        ((0.95, 0.95, 0.95), "not reproduced at this scale", "nearly constant at 0.51"),
        ((0.93, 0.95, 0.95), "not reproduced at this scale", "nearly constant"),
    ],
)
def test_verdicts(means, word: str, words: str) -> None:
    verdict = claim.judge(made(*means))
    assert verdict.word == word and words in verdict.because
    assert (verdict.explained_by is not None) == (words == "makes no difference")


def test_one_seed_shows_nothing() -> None:
    assert claim.judge(made(0.99, 0.9, 0.9)[:1]).word == "not reproduced at this scale"
