"""How commands print, fail and stop."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import typer


def console() -> Any:
    """A rich console; what goes to a file or a pipe isn't squeezed into 80 columns."""
    from rich.console import Console

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140
    return Console(width=wide)


def show(renderable: Any) -> None:
    """Print a table or text."""
    console().print(renderable)


def print_json(value: Any) -> None:
    """Print ``value`` as strict JSON."""
    typer.echo(json.dumps(value, allow_nan=False, indent=2))


def fail(message: str, code: int) -> NoReturn:
    """End the command with a line on standard error."""
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def interrupt(*_: Any) -> NoReturn:
    """A signal handler: whatever stops a command, it ends as by Ctrl-C."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def reserved_stdout() -> Iterator[None]:
    """Standard output goes to standard error meanwhile, so that prints of a user's task don't mix with the JSON."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
