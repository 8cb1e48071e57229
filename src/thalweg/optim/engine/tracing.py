"""Whether a pass is recorded, to be compiled, rather than run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_TRACED = ContextVar("traced", default=False)


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """A context in which passes are recorded."""
    token = _TRACED.set(True)
    try:
        yield
    finally:
        _TRACED.reset(token)


def is_traced() -> bool:
    """Whether it is so now."""
    return _TRACED.get()
