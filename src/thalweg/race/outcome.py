"""How a run that went wrong is recorded."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import torch

from thalweg.race.records import Outcome

_LIBRARIES = ("site-packages", "dist-packages", sysconfig.get_paths()["stdlib"], "<")
_LONGEST = 300


class Diverged(ArithmeticError):
    """The loss or the metric is not finite, or the loss exploded."""


def outcome_of(error: BaseException) -> tuple[Outcome, str]:
    """The outcome that an exception inside a run stands for, and one line that says what went wrong and where.

    Example:
        >>> outcome_of(MemoryError())
        ('out_of_memory', 'MemoryError')
    """
    if isinstance(error, Diverged):
        return "diverged", str(error)
    text = one_line(str(error))
    starved = isinstance(error, MemoryError | torch.OutOfMemoryError)
    starved |= isinstance(error, RuntimeError) and ("out of memory" in text or "DefaultCPUAllocator" in text)
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ("out_of_memory" if starved else "raised"), message + _place(error)


def one_line(text: str) -> str:
    """``text`` on one line, cut where it is very long."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _place(error: BaseException) -> str:
    """`` (file.py:12)``: the innermost line that is the user's or a method's own, not a library's or the race's."""
    frames = traceback.extract_tb(error.__traceback__)
    race = Path(__file__).parent
    own = [f for f in frames if Path(f.filename).parent != race and not any(part in f.filename for part in _LIBRARIES)]
    found = own or list(frames)
    return f" ({Path(found[-1].filename).name}:{found[-1].lineno})" if found else ""
