"""Text that came from users, made fit to be shown: no control characters, no passwords, not too long."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""What XML forbids, what a terminal would obey, and what turns the writing direction around."""

_URL_PASSWORD = re.compile(r"(?P<head>\b[\w+.-]+://[^\s:/@'\"]*:)[^\s'\"]+(?=@)")
_KEY_PASSWORD = re.compile(r"(?P<head>\b(?:password|passwd|pwd|token)=)[^\s&'\"]+", re.IGNORECASE)


def clean(value: Any) -> str:
    """``value`` as text that is safe to hand to an XML writer or a terminal, with passwords in URLs masked.

    Escaping for HTML is not done here: the template and the SVG writer do it, once.

    Example:
        >>> clean("postgresql://ann:secret@db/races")
        'postgresql://ann:***@db/races'
    """
    text = _CONTROL.sub("\ufffd", str(value))
    return _KEY_PASSWORD.sub(r"\g<head>***", _URL_PASSWORD.sub(r"\g<head>***", text))


def shorten(value: Any, width: int) -> str:
    """:func:`clean` text on one line of at most ``width`` characters; the middle goes, since names differ at both ends."""
    text = " ".join(clean(value).split())
    if len(text) <= width:
        return text
    tail = width // 3
    return text[: width - tail - 1].rstrip() + "…" + text[len(text) - tail :].lstrip()


def listing(names: Sequence[str]) -> str:
    """``"a"``, ``"a and b"``, ``"a, b and c"``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def count(n: int, noun: str) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
