"""Where in the user's code an exception came from, said in one line."""

from __future__ import annotations

import traceback
from pathlib import Path

LONGEST = 400
"""Characters of an exception's text that are shown."""


def one_line(error: BaseException) -> str:
    """``ValueError: what it says``, on one line.

    Example:
        >>> one_line(ValueError("two\\nlines"))
        'ValueError: two lines'
    """
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def user_line(error: BaseException, source: str) -> str:
    """``my_task.py:12``: the innermost line of the file ``source`` that the exception passed; ``source`` if there is none.

    Where ``source`` isn't a file, as for a task built in a Python session, it is the innermost line outside of installed
    packages, if there is one.

    Args:
        error: an exception that was raised and caught.
        source: a path as the user wrote it, or another name of where the task came from.
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    if source.endswith(".py"):
        file = Path(source).resolve()
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == file]
        return f"{source}:{lines[-1]}" if lines else source
    installed = ("site-packages", "dist-packages", str(Path(__file__).parent))
    own = [f for f in frames if not any(part in f.filename for part in installed)]
    return f"{source} ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else source
