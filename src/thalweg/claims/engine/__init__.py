"""Runs claims: loading a claim file, its seeds, resuming, judging, storing, and judging stored results again.

The names below are loaded when they are first used, so that :mod:`thalweg.claims.engine.contract` stays cheap to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.claims.engine.checking import check
    from thalweg.claims.engine.claim_file import ClaimFile, load, slugs
    from thalweg.claims.engine.errors import ClaimError
    from thalweg.claims.engine.storage import figure_path, read_result, result_path, stored_results

__all__ = [
    "ClaimError",
    "ClaimFile",
    "check",
    "figure_path",
    "load",
    "read_result",
    "result_path",
    "slugs",
    "stored_results",
]

_HOMES = {
    "ClaimError": "errors",
    "ClaimFile": "claim_file",
    "check": "checking",
    "figure_path": "storage",
    "load": "claim_file",
    "read_result": "storage",
    "result_path": "storage",
    "slugs": "claim_file",
    "stored_results": "storage",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"thalweg.claims.engine.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
