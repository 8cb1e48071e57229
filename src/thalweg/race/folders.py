"""Folders of races: ``out/NAME`` holds the database of race ``NAME``, unless it is elsewhere, and its report."""

from __future__ import annotations

import re
from pathlib import Path

from thalweg.race.errors import RaceError
from thalweg.race.storage import Storage

DATABASE, REPORT = "race.db", "report.html"


def new_race(out: Path, name: str | None, task: str, storage: str | None) -> str:
    """Make the folder of a new race.

    Args:
        out: folder of all races.
        name: the race's name; ``None`` takes the first free one of ``TASK``, ``TASK-2``, ``TASK-3``, ...
        task: the task's name.
        storage: database of the race, where it isn't a file in its own folder.

    Returns:
        The name.

    Raises:
        RaceError: the name can't be used, or the folder can't be made.
    """
    if name is not None:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise RaceError(f"race name {name!r} may hold letters, digits, '.', '_' and '-' only")
        _make(out / name, exist_ok=True)
        return name
    taken = set() if storage is None else _names(storage)
    stem = re.sub(r"[^\w.-]+", "-", task).strip("-.") or "race"
    number = 1
    while True:
        name = stem if number == 1 else f"{stem}-{number}"
        if name not in taken and _make(out / name, exist_ok=False):
            return name
        number += 1


def latest_race(out: Path, storage: str | None) -> str:
    """The race that ``--resume`` without a name means: the storage's only one, or the latest one in ``out``."""
    if storage is not None:
        names = sorted(_names(storage))
        if len(names) == 1:
            return names[0]
        found = f"it has {', '.join(names)}" if names else "it has none"
        raise RaceError(f"say with --name which race of the storage to resume; {found}")
    databases = sorted(out.glob(f"*/{DATABASE}"), key=lambda path: path.stat().st_mtime)
    if not databases:
        raise RaceError(
            f"there is no race to resume in {out}; start one without --resume, or say where it is with --out"
        )
    return databases[-1].parent.name


def database(out: Path, name: str, storage: str | None) -> str:
    """Where the runs of a race are."""
    return storage or str(out / name / DATABASE)


def existing(out: Path, name: str, storage: str | None) -> str:
    """Like :func:`database`, for a race that has to exist."""
    if storage is None and not (out / name / DATABASE).exists():
        known = sorted(path.parent.name for path in out.glob(f"*/{DATABASE}"))
        hint = f"it has {', '.join(known)}" if known else "it has none"
        raise RaceError(f"there is no race {name!r} in {out}; {hint}")
    return database(out, name, storage)


def _names(storage: str) -> set[str]:
    with Storage(storage, "") as store:
        return set(store.races())


def _make(folder: Path, exist_ok: bool) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if exist_ok or not folder.parent.is_dir():
            raise RaceError(f"{folder} is in the way: it is not a folder") from None
        return False
    except OSError as error:
        raise RaceError(f"can't make the folder {folder}: {error.strerror}; choose another one with --out") from None
    return True
