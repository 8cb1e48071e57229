"""What a claim gave, made sure of: numbers that are numbers, curves that fit their panels, a verdict with a reason."""

from __future__ import annotations

import math
import numbers
import typing
from typing import Any

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Verdict, Word
from thalweg.claims.engine.errors import ClaimError

_NEEDS_NUMBERS = "must give a Measurement whose numbers are plain numbers"


def good_measurement(value: Any, panels: tuple[Panel, ...]) -> Measurement:
    """``value`` with floats as numbers.

    Raises:
        ClaimError: it isn't a measurement, a number is NaN or none at all, or a curve belongs to no panel or is ragged.
    """
    if not isinstance(value, Measurement) or not value.numbers:
        raise ClaimError(f"run() {_NEEDS_NUMBERS}, not {type(value).__name__}")
    odd = [name for name, number in value.numbers.items() if not isinstance(number, numbers.Real)]
    if odd:
        raise ClaimError(f"run() {_NEEDS_NUMBERS}; these aren't: {_listed(odd)} (take float() of tensors)")
    found = {str(name): float(number) for name, number in value.numbers.items()}
    lost = [name for name, number in found.items() if math.isnan(number)]
    if lost:
        raise ClaimError(f"numbers are NaN: {_listed(lost)}; a verdict can't stand on them (say 'never' by infinity)")
    for curve in value.curves:
        _check_curve(curve, panels)
    return Measurement(found, tuple(value.curves))


def good_verdict(value: Any) -> Verdict:
    """``value`` if it is a verdict with a known word and a reason.

    Raises:
        ClaimError: it isn't.
    """
    words = typing.get_args(Word)
    if not isinstance(value, Verdict) or value.word not in words or not value.because.strip():
        raise ClaimError(
            f"judge() must give a Verdict with a reason and one of the words {_listed(words)}, not {value!r}"
        )
    return value


def _check_curve(curve: Curve, panels: tuple[Panel, ...]) -> None:
    keys = [panel.key for panel in panels]
    if curve.panel not in keys:
        raise ClaimError(f"curve {curve.label!r} is for panel {curve.panel!r}, but PANELS has {_listed(keys)}")
    if len(curve.x) != len(curve.y):
        raise ClaimError(f"curve {curve.label!r} of panel {curve.panel!r} has {len(curve.x)} x and {len(curve.y)} y")


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"
