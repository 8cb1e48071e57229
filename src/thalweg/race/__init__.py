"""Compare training methods: equal tuning, paired fresh seeds, time to target with intervals.

The names below are loaded when they are first used, so that worker processes start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.race.errors import RaceError, ReportError, StorageError
    from thalweg.race.orchestrate import race, report_of
    from thalweg.race.recipe import Recipe, parse
    from thalweg.race.records import RaceResult, RecipeResult, Run

__all__ = [
    "RaceError",
    "RaceResult",
    "Recipe",
    "RecipeResult",
    "ReportError",
    "Run",
    "StorageError",
    "parse",
    "race",
    "report_of",
]

_HOMES = {
    "RaceError": "errors",
    "ReportError": "errors",
    "StorageError": "errors",
    "race": "orchestrate",
    "report_of": "orchestrate",
    "Recipe": "recipe",
    "parse": "recipe",
    "RaceResult": "records",
    "RecipeResult": "records",
    "Run": "records",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"thalweg.race.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
