"""A site's folder: replaced as a whole, and only if nothing but a site of ours is lost."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARKER = ".thalweg-site.json"
"""The file that tells a site of ours, with the list of its files."""


class SiteError(ValueError):
    """The site can't be built there; one line that says why and what to do."""


@contextmanager
def replaced(out: Path) -> Iterator[Path]:
    """A new folder to build into, which takes the place of ``out`` at the end.

    It lies beside ``out``. If the body raises, it is removed and ``out`` stays as it was; at no time does ``out`` hold a part
    of a site.

    Raises:
        SiteError: ``out`` holds anything else than a site of ours, or can't be written.
    """
    out = out.resolve()
    check(out)
    beside = f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}"
    part, old = out.with_name(f"{beside}.part"), out.with_name(f"{beside}.old")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise SiteError(f"can't write beside {out}: {error.strerror}; choose another folder with --out") from None
    try:
        yield part
        _mark(part)
        _swap(part, out, old)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check(out: Path) -> None:
    """Nothing but a site of ours, an empty folder, or nothing, may lie at ``out``.

    Raises:
        SiteError: something else does.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise SiteError(f"{out} is a file; choose a folder for the site with --out")
    if Path.cwd() == out or out in Path.cwd().parents:
        raise SiteError(f"{out} is the folder that you are in or above it; choose one inside it with --out")
    here = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    try:
        ours = set(json.loads((out / MARKER).read_text(encoding="utf-8"))["files"]) | {MARKER}
    except FileNotFoundError:
        ours = set()
    except (OSError, ValueError, KeyError, TypeError):
        raise SiteError(
            f"{out / MARKER} can't be read; remove {out} yourself, or choose another folder with --out"
        ) from None
    if foreign := sorted(here - ours):
        some = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise SiteError(f"{out} holds what no site of ours put there ({some}); choose another folder with --out")


def _mark(part: Path) -> None:
    files = sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
    (part / MARKER).write_text(
        json.dumps({"about": "A site written by Thalweg", "files": files}, indent=1), encoding="utf-8"
    )


def _swap(part: Path, out: Path, old: Path) -> None:
    """``part`` becomes ``out``; if that fails, what was there comes back."""
    try:
        if out.exists():
            out.rename(old)
        try:
            part.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    except OSError as error:
        raise SiteError(f"can't replace {out}: {error.strerror}; choose another folder with --out") from None
    shutil.rmtree(old, ignore_errors=True)
