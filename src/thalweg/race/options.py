"""Checks of what a race was asked for, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from thalweg.registry import unknown

_AT_LEAST = {"trials": 1, "seeds": 1, "tuning_seeds": 1, "seed": 0, "steps": 1, "devices": 1}
_CHOICES = {
    "schedule": ("cosine", "constant"),
    "device": ("auto", "cpu", "cuda", "gpu", "mps"),
    "strategy": ("auto", "ddp", "fsdp"),
    "precision": (
        "16-mixed",
        "16-true",
        "32-true",
        "64-true",
        "bf16-mixed",
        "bf16-true",
        "transformer-engine",
        "transformer-engine-float16",
    ),
}


def check_options(asked: Mapping[str, Any], workers: int | None, ray: str | None) -> dict[str, Any]:
    """The options that were given, checked.

    Args:
        asked: every option of :func:`~thalweg.race.race` that decides a result, by name; ``None`` where it was left
            out.
        workers: processes.
        ray: Ray's address.

    Returns:
        ``asked`` without what was left out.

    Raises:
        ValueError: one line that says which option is wrong.
    """
    given = {key: value for key, value in asked.items() if value is not None}
    for key, least in _AT_LEAST.items():
        if key in given and (not _whole(given[key]) or given[key] < least):
            raise ValueError(f"{key} must be a whole number, at least {least}, not {given[key]!r}")
    for key, choices in _CHOICES.items():
        if key in given and given[key] not in choices:
            raise ValueError(unknown(key, str(given[key]), choices))
    if "seconds" in given and not (_number(given["seconds"]) and 0 < given["seconds"] < math.inf):
        raise ValueError(f"seconds must be a positive number, not {given['seconds']!r}")
    if "seconds" in given and "steps" in given:
        raise ValueError("give the budget in steps or in seconds, not in both")
    if "target" in given and not (_number(given["target"]) and math.isfinite(given["target"])):
        raise ValueError(f"target must be a finite number, not {given['target']!r}")
    if not isinstance(given.get("stop_at_target", False), bool):
        raise ValueError(f"stop_at_target must be True or False, not {given['stop_at_target']!r}")
    if workers is not None and not (_whole(workers) and workers >= 0):
        raise ValueError(f"workers must be 0 (train in this process) or a larger whole number, not {workers!r}")
    if ray is not None and workers == 0:
        raise ValueError("workers=0 trains in this process; leave ray out, or give it at least one worker")
    # numpy's numbers as plain ones, since the plan is stored as JSON
    plain = {key: float(given[key]) for key in ("seconds", "target") if isinstance(given.get(key), np.generic)}
    return {**given, **plain}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
