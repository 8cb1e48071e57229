"""Folders of races: ``out/NAME`` holds the database of race ``NAME``, unless it is elsewhere, and its report."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thalweg.race.errors import RaceError, StorageError
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


@dataclass(frozen=True)
class Place:
    """Where a stored race is: its database, its name there, and its folder, which may have been renamed since."""

    database: str
    name: str
    folder: Path


def stored_race(out: Path, name: str | None, storage: str | None) -> Place:
    """The race that is resumed.

    A folder may be called for by its own name or by that of the race in it, which differ where somebody renamed the folder.

    Args:
        out: folder of all races.
        name: the race's name, or its folder's; ``None``: the latest.
        storage: database of the race, where it isn't a file in its own folder.

    Raises:
        RaceError: there is no such race.
    """
    name = name or latest_race(out, storage)
    if storage is not None:
        return Place(storage, name, out / name)
    folder = out / name if (out / name / DATABASE).exists() else _folder_with(out, name)
    names = sorted(_names(str(folder / DATABASE)))
    return Place(str(folder / DATABASE), names[0] if len(names) == 1 else name, folder)


def _folder_with(out: Path, name: str) -> Path:
    """The folder that holds race ``name``, whatever it is called."""
    databases = sorted(out.glob(f"*/{DATABASE}"))
    for path in databases:
        with suppress(StorageError):  # another folder's broken database is not what was asked for
            if path.stat().st_size and name in _names(str(path)):
                return path.parent
    known = [path.parent.name for path in databases]
    hint = f"it has {', '.join(known)}" if known else "it has none"
    raise RaceError(f"there is no race {name!r} in {out}; {hint}")


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
