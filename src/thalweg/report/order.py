"""The order in which recipes are listed."""

from __future__ import annotations

import math

from thalweg.race.records import RaceResult, RecipeResult


def ordered(result: RaceResult) -> list[RecipeResult]:
    """The baseline, then the others from the smallest deciding ratio to the largest; those without one last.

    What counts as the whole budget because it never reached the target comes after what did, at the same ratio.
    """
    return sorted(
        result.recipes,
        key=lambda row: (row.name != result.baseline, _ratio(row, result.decides), row.steps_to_target is None),
    )


def _ratio(row: RecipeResult, decides: str) -> float:
    value = row.steps_ratio if decides == "steps" else row.seconds_ratio
    return math.inf if value is None or math.isnan(value) else value
