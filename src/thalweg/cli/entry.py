"""Entry of the ``thalweg`` command: what errors look like and which exit code they give."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, NoReturn

import typer

from thalweg.cli.app import app
from thalweg.cli.output import fail

# typer brings its own copy of click or uses an installed one, depending on its version; its base class is found either way.
_USAGE_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main() -> NoReturn:
    """Run the command line: errors are one line on standard error, tracebacks come with ``--debug``."""
    debug = "--debug" in sys.argv[1:]
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except (typer.Abort, KeyboardInterrupt):
        fail("stopped", 130)
    except _USAGE_ERROR as error:
        fail(f"{error.format_message()} (see thalweg --help)", 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except Exception as error:
        if debug:
            fail(_redacted(traceback.format_exc()).rstrip(), _code(error))
        fail(_redacted(_described(error)), _code(error))


def _described(error: Exception) -> str:
    """One line; an error that nothing was prepared for says its type and how to see more."""
    text = " ".join(str(error).split())
    if _code(error) != 1:
        return text
    return f"unexpected {type(error).__name__}: {text} (run again with --debug for the traceback)"


def _code(error: Exception) -> int:
    """2: what was asked for can't be done; 3: the storage failed; 1: anything else."""
    if any(kind.__name__ == "StorageError" for kind in type(error).__mro__):
        return 3
    return 2 if isinstance(error, ValueError | ImportError) or _is_expected(error) else 1


def _is_expected(error: Exception) -> bool:
    """By name, since importing the class would take longer than most mistakes are worth."""
    return any(kind.__name__ in ("RaceError", "ClaimError") for kind in type(error).__mro__)


def _redacted(text: str) -> str:
    """Passwords of storage addresses never reach the screen, whatever library put them into its message."""
    from thalweg.race.urls import redact

    for argument in [*sys.argv[1:], os.environ.get("THALWEG_STORAGE", "")]:
        if "://" in argument:
            text = redact(text, argument)
    return text
