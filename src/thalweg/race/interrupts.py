"""Ctrl-C at a moment that breaks nothing."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_Handler = Callable[[int, FrameType | None], Any]


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C, and what else has a handler and asks to end, waits until the block is left; asked twice, it comes through.

    A database transaction that is cut at an unlucky moment may keep its lock, and giving the race up then waits for it.

    Example:
        >>> import os, signal
        >>> from thalweg.race.interrupts import uninterrupted
        >>> said = []
        >>> try:
        ...     with uninterrupted():
        ...         os.kill(os.getpid(), signal.SIGINT)
        ...         said.append("finished")
        ... except KeyboardInterrupt:
        ...     said.append("interrupted")
        >>> said
        ['finished', 'interrupted']
    """
    if threading.current_thread() is not threading.main_thread():  # signals arrive in the main thread only
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers: dict[int, _Handler] = {number: handler for number, handler in found.items() if callable(handler)}
    asked: list[tuple[int, FrameType | None]] = []

    def wait(number: int, frame: FrameType | None) -> None:
        asked.append((number, frame))
        if len(asked) > 1:
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, wait)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if len(asked) == 1:
            number, frame = asked[0]
            handlers[number](number, frame)
