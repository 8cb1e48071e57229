"""CPython's own text, found beside the interpreter: reference documentation and the standard library's source.

Every document goes to training or validation as a whole, decided by a checksum of its name alone, so that it stays on its
side when another version of Python has more documents, fewer, or revised ones.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from thalweg.tasks.task import TaskError

HELD_OUT = 10
"""One document in this many, on average, is held out."""

PASSAGE = 80
"""Shortest text, in characters, that counts as the same passage in two documents."""


def documents() -> dict[str, str]:
    """All documents by name: ``"topics/KEY"`` for Python's reference topics, ``"MODULE.py"`` for public modules.

    Raises:
        TaskError: this Python was installed without its source files.
    """
    from pydoc_data.topics import topics

    library = Path(os.__file__).parent
    sources = {
        path.name: path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(library.glob("*.py"))
        if path.stem in sys.stdlib_module_names and not path.stem.startswith("_")
    }
    if not sources:
        raise TaskError(f"the task docs-lm reads the standard library's source, and {library} holds no .py files")
    return {f"topics/{key}": text for key, text in sorted(topics.items())} | sources


def held_out(name: str) -> bool:
    """Whether the document called ``name`` belongs to validation."""
    return zlib.crc32(name.encode()) % HELD_OUT == 0


def split_documents(
    texts: dict[str, str], is_held_out: Callable[[str], bool] = held_out
) -> tuple[dict[str, str], dict[str, str]]:
    """Training and validation documents, no passage of the latter in the former.

    Python's topics quote one another ("compound statements" holds all of "the if statement"), so passages of a held-out
    document are cut from training documents. A passage is a paragraph of at least 80 characters, white space apart.

    Args:
        texts: documents by name.
        is_held_out: says by its name which document is for validation.

    Returns:
        Training documents without the shared passages, and validation documents, both by name.

    Example:
        >>> train, valid = split_documents({"a": "x" * 80 + "\\n\\nown", "b": "x" * 80}, lambda name: name == "b")
        >>> train
        {'a': 'own'}
    """
    valid = {name: text for name, text in texts.items() if is_held_out(name)}
    secret = {passage for text in valid.values() for passage in map(_squeezed, _paragraphs(text)) if _counts(passage)}
    train = {
        name: "\n\n".join(p for p in _paragraphs(text) if _squeezed(p) not in secret)
        for name, text in texts.items()
        if name not in valid
    }
    return train, valid


def _paragraphs(text: str) -> list[str]:
    return text.split("\n\n")


def _squeezed(paragraph: str) -> str:
    return " ".join(paragraph.split())


def _counts(passage: str) -> bool:
    return len(passage) >= PASSAGE
