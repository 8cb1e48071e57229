"""Arms that differ in the rule for hidden matrices: how rates are chosen, who takes which, bytes of state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from thalweg.claims.engine.language_model import Course, Size, decoder
from thalweg.claims.engine.matrix_arms import (
    TUNING_SEED,
    Arm,
    Plan,
    adam_settings,
    adamw,
    choose_rates,
    gap,
    in_words,
    losses_of,
    measured,
    run_arms,
    state_share,
)
from thalweg.optim import GaLore

SIZE = Size(steps=2, width=16, context=8, evaluations=1, valid_windows=4)


def quiet(share: float, doing: str = "") -> None:
    assert 0 <= share <= 1


def arms(made: list[tuple[str, float, float]]) -> dict[str, Arm]:
    """Two that only say what they were asked for."""

    def arm(name: str, middle: float, points: int, spacing: float) -> Arm:
        def make(model: Any, rate: float, rest: float) -> torch.optim.Optimizer:
            made.append((name, rate, rest))
            return torch.optim.SGD([torch.zeros(1)], lr=rate)

        return Arm(make, middle, points=points, spacing=spacing)

    return {"first": arm("first", -2.0, 3, 0.5), "second": arm("second", -1.0, 4, 0.25)}


def trainer(best: float) -> Callable[[Callable[[Any], torch.optim.Optimizer], int], Course]:
    """Losses are distances from an exponent, plus the seed."""

    def train(make: Callable[[Any], torch.optim.Optimizer], seed: int) -> Course:
        rate = make(None).param_groups[0]["lr"]
        return Course((0.0, 1.0), (9.0, abs(math.log10(rate) - best) + seed))

    return train


def test_rates() -> None:
    made: list[tuple[str, float, float]] = []
    chosen = choose_rates(arms(made), trainer(-1.0), 3, report=quiet)
    assert chosen["first"] == {"rate": pytest.approx(0.1), "loss": pytest.approx(TUNING_SEED)}  # beyond the first grid
    tried = [round(math.log10(rate), 4) for name, rate, _ in made if name == "first"]
    assert tried == [-2.5, -2.0, -1.5, -1.0, -0.5]
    assert all(rest == rate for name, rate, rest in made if name == "first")
    second = [(round(math.log10(rate), 4), rest) for name, rate, rest in made if name == "second"]
    assert second == [(e, pytest.approx(0.1)) for e in (-1.375, -1.125, -0.875, -0.625)]
    made.clear()
    assert choose_rates(arms(made), trainer(-1.0), None, report=quiet)["first"]["rate"] == 0.01
    assert [name for name, _, _ in made] == ["first", "second"]


def test_runs_and_what_is_measured() -> None:
    made: list[tuple[str, float, float]] = []
    watched: list[str] = []
    chosen = {"first": {"rate": 0.1, "loss": 0.0}, "second": {"rate": 1.0, "loss": 0.0}}
    both = arms(made)
    found = []
    for seed in (5, 6):
        courses = run_arms(both, chosen, trainer(-1.0), seed, report=quiet, watch=lambda name, *_: watched.append(name))
        found.append(measured(both, courses, {"more": 1.0}))
    assert made[:2] == [("first", 0.1, 0.1), ("second", 1.0, 0.1)] and watched == ["first", "second"] * 2
    run_arms({"second": both["second"]}, chosen, trainer(-1.0), 5, report=quiet, rest_of="first")
    assert made[-1] == ("second", 1.0, 0.1)
    assert losses_of(found, "second") == [6.0, 7.0] and found[0].numbers["more"] == 1.0
    assert [curve.label for curve in found[0].curves] == ["first", "second"]
    assert (
        gap(found, "second", "first").above and in_words(gap(found, "second", "first")) == "+1.000 (+1.000 to +1.000)"
    )


def test_bytes_of_state_and_the_language_model() -> None:
    galore = Arm(lambda model, rate, rest: GaLore(model, **adam_settings(rate, rest), rank=2), -2.0)
    assert state_share(Arm(adamw, -2.5), SIZE) == 1.0
    shapes = [(48, 16), (16, 16), (64, 16), (16, 64)]
    words = sum(2 * (2 * max(s) + min(s)) for s in shapes)
    assert state_share(galore, SIZE) == words / sum(2 * m * n for m, n in shapes)
    net = decoder(SIZE)
    rates = {id(p): group["lr"] for group in adamw(net, 1e-2, 1e-3).param_groups for p in group["params"]}
    assert {name: rates[id(p)] for name, p in net.named_parameters()} == {
        name: 1e-2 if "blocks" in name and p.ndim == 2 else 1e-3 for name, p in net.named_parameters()
    }
    assert Plan(SIZE, None).trainer(lambda model: adamw(model, 1e-2, 1e-2), 3).final < 5.7
