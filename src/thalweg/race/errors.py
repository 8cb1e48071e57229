"""Errors of a race; every message is one line that says what was wrong and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalweg.race.records import RaceResult


class RaceError(RuntimeError):
    """A race that can't start or go on."""


class StorageError(RaceError):
    """The storage can't be opened, read or written; what was stored before is still there."""


class ReportError(RaceError):
    """The race is finished and stored, but its report can't be written; :attr:`result` holds what it showed."""

    def __init__(self, message: str, result: RaceResult) -> None:
        super().__init__(message)
        self.result = result


class WorkerDied(RuntimeError):
    """A process that trains was killed or ended by itself."""

    def __init__(self, reason: str, signal: int = 0) -> None:
        super().__init__(reason)
        self.signal = signal
