"""FRUGAL: with state for a quarter of each gradient and sign descent for the rest, training is about as good as with AdamW.

The claim of arXiv:2411.07837, on a byte-level language model of real text: three ways to split the gradient, each with and without the
rule for the rest; with sign descent alone as the control.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thalweg.claims.engine.contract import Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.language_model import Size
from thalweg.claims.engine.matrix_arms import (
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
from thalweg.optim import Frugal

RULE = """\
Byte-level language model of real text (2 blocks of width 32), final validation loss, fresh seeds. A quarter of the hidden matrices'
gradients has state (Adam's), drawn anew every 50 steps: whole matrices, columns, or a subspace of singular vectors. On another seed a
learning rate for AdamW everywhere is chosen, which all but the hidden matrices then has in every arm; then that of the hidden matrices
for AdamW and each other arm, each among 3; a best rate at a grid's edge widens the grid.
1. The rest helps. For each of the 3 splits FRUGAL's loss lies below that of its twin that drops the rest of the gradient (block
   coordinate descent, or GaLore): the whole 95% interval of the differences seed by seed does.
2. The split matters little. The means of the three differ by less than 30% of their mean gain over the twins.
3. Close to AdamW. Each of the three has a mean at most 1% above AdamW's.
Reproduced: all. Partly: 1 alone, or with one of the others. Not reproduced: otherwise.
Control: sign descent on all hidden matrices, without any state. Where no split's interval lies below it, the state does nothing and
sign descent explains the result."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=6), "cpu": Scale(seeds=(11, 12, 13, 14), seconds=190)}

PANELS = (Panel("loss", "Language model: validation loss", "step", "nats per byte"),)

PLANS = {
    "smoke": Plan(Size(steps=4, width=16, context=16, evaluations=2, valid_windows=8), widen=None),
    "cpu": Plan(Size(steps=200, width=32, context=32, evaluations=10, valid_windows=256), widen=3),
}

STATE = "state over AdamW's"
SPLITS = {"blocks": "block", "columns": "columns", "subspace": "svd"}


def _frugal(projection: str, state_free: str, density: float, middle: float, role: Role = "measured") -> Arm:
    def make(model: Any, rate: float, rest: float) -> Frugal:
        settings = {**adam_settings(rate, rest), "projection": projection, "state_free": state_free}
        return Frugal(model, density=density, update_every=50, **settings)

    return Arm(make, middle, role)


ONE_RATE = "AdamW, one rate"
"""Gives the rate of the rest, and is then done."""

ARMS = {
    "AdamW": Arm(adamw, -2.5),
    "sign descent": _frugal("columns", "sign_sgd", 0.0, -3.0, "control"),
    **{f"FRUGAL, {name}": _frugal(projection, "sign_sgd", 0.25, -2.5) for name, projection in SPLITS.items()},
    **{f"{name} alone": _frugal(projection, "none", 0.25, -2.0) for name, projection in SPLITS.items()},
}


def choose(scale: str, *, report: Report) -> dict[str, dict[str, float]]:
    """Learning rates of all arms."""
    return choose_rates({ONE_RATE: Arm(adamw, -2.5), **ARMS}, PLANS[scale].trainer, PLANS[scale].widen, report=report)


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All arms."""
    plan = PLANS[scale]
    courses = run_arms(ARMS, chosen, plan.trainer, seed, report=report, rest_of=ONE_RATE)
    shares = {f"FRUGAL, {name}: state over AdamW's": state_share(ARMS[f"FRUGAL, {name}"], plan.size) for name in SPLITS}
    return measured(ARMS, courses, shares)


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def mean(arm: str) -> float:
        return sum(losses_of(measurements, arm)) / len(measurements)

    means = {name: mean(f"FRUGAL, {name}") for name in SPLITS}
    gains = {name: gap(measurements, f"FRUGAL, {name}", f"{name} alone") for name in SPLITS}
    helps = all(gain.below for gain in gains.values())
    gain = -sum(found.mean for found in gains.values()) / len(gains)
    spread = max(means.values()) - min(means.values())
    alike = spread < 0.3 * gain
    higher = max(means.values()) / mean("AdamW") - 1
    close = higher <= 0.01
    over_sign = {name: gap(measurements, f"FRUGAL, {name}", "sign descent") for name in SPLITS}
    first = measurements[0].numbers
    shares = ", ".join(f"{100 * first[f'FRUGAL, {name}: {STATE}']:.0f}%" for name in SPLITS)
    because = (
        f"FRUGAL minus its twin without the rest, nats per byte ({', '.join(SPLITS)}): {_listed(gains)} (intervals below 0). The "
        f"three differ by {spread:.3f} (less than {0.3 * gain:.3f}), and end at most {100 * higher:+.1f}% from AdamW's "
        f"{mean('AdamW'):.3f} (+1%). FRUGAL minus sign descent: {_listed(over_sign)}. State of the matrices over AdamW's: {shares}."
    )
    explained = None if any(found.below for found in over_sign.values()) else "sign descent alone, without any state"
    if helps and alike and close:
        return Verdict("reproduced", because, explained)
    if helps:
        reasons = ["the gain itself is small here, and so the splits' differences weigh more"] if not alike else []
        reasons += ["signs alone don't scale steps as Adam does, which the last per cent needs"] if not close else []
        return Verdict("partly", f"{because} Likely reason: {'; '.join(reasons)}.", explained)
    likely = "in a training this short, a part of the gradient at a time loses little, and sign descent adds little"
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")


def _listed(found: Mapping[str, Any]) -> str:
    return "; ".join(map(in_words, found.values()))
