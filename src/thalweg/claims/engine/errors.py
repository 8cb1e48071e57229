"""Errors of checks; every message is one line that says what was wrong and what to do."""

from __future__ import annotations


class ClaimError(RuntimeError):
    """A check that can't start, go on or be trusted. It is never a verdict."""
