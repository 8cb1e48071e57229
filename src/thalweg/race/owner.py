"""Who runs a race: a record in the storage that one process holds at a time, so that no run is done twice."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Engine

from thalweg.race.errors import RaceError

HEARTBEAT = 10.0
"""Seconds between signs of life."""

STALE = 60.0
"""Seconds without one after which another machine's owner counts as gone."""

_HELD: set[str] = set()
"""Tokens that this process holds: a record of its own that isn't here was left by a race whose database went away."""

_KEY = "thalweg:owner"
_TABLE = sqlalchemy.table(
    "study_user_attributes",
    sqlalchemy.column("study_id"),
    sqlalchemy.column("key"),
    sqlalchemy.column("value_json"),
)


class Ownership:
    """Holds a race for this process, with a heartbeat, until :meth:`release`.

    The record changes hands by compare-and-swap: an update that names the record it replaces, so that of two processes
    that want it at once, one gets it.

    Args:
        engine: the storage's database.
        study: id of the race's study.
        name: the race's name, for messages.
    """

    def __init__(self, engine: Engine, study: int, name: str) -> None:
        self._engine, self._study, self._name = engine, study, name
        self._mine: dict[str, Any] = {
            "host": socket.gethostname(),
            "namespace": _namespace(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "token": uuid.uuid4().hex,
        }
        self._written = ""
        self._lost = False
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, daemon=True)

    def acquire(self) -> None:
        """Take the race; a :class:`RaceError` if another live process has it."""
        stored = self._read()
        if stored is None:
            self._insert_empty()
            stored = self._read() or "null"
        owner = json.loads(stored)
        if owner is not None and _alive(owner):
            raise RaceError(
                f"race {self._name!r} is being run by process {owner['pid']} on {owner['host']}; "
                "wait for it, stop it, or start another race with --name"
            )
        if not self._swap(stored, self._record()):
            raise RaceError(
                f"race {self._name!r} has just been started by another process; use --name for another race"
            )
        _HELD.add(self._mine["token"])
        self._beat.start()

    def check(self) -> None:
        """A :class:`RaceError` if another process took the race over, for instance after this machine slept."""
        if self._lost:
            raise RaceError(f"race {self._name!r} was taken over by another process; this one stops")

    def release(self) -> None:
        """Give the race up; harmless where it was never held."""
        self._stop.set()
        _HELD.discard(self._mine["token"])
        if self._written:
            if self._beat.is_alive():
                self._beat.join(HEARTBEAT)
            self._swap(self._written, None)
            self._written = ""

    def _keep_alive(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                if not self._swap(self._written, self._record()):
                    self._lost = True
                    return
            except sqlalchemy.exc.SQLAlchemyError:
                continue  # the race itself meets the same failure and says so

    def _record(self) -> dict[str, Any]:
        return {**self._mine, "seen": time.time()}

    def _row(self) -> sqlalchemy.ColumnElement[bool]:
        return sqlalchemy.and_(_TABLE.c.study_id == self._study, _TABLE.c.key == _KEY)

    def _read(self) -> str | None:
        with self._engine.connect() as connection:
            return connection.execute(sqlalchemy.select(_TABLE.c.value_json).where(self._row())).scalar()

    def _insert_empty(self) -> None:
        row = {"study_id": self._study, "key": _KEY, "value_json": "null"}
        try:
            with self._engine.begin() as connection:
                connection.execute(sqlalchemy.insert(_TABLE).values(**row))
        except sqlalchemy.exc.IntegrityError:
            return  # another process was faster; what it wrote is read next

    def _swap(self, old: str, new: dict[str, Any] | None) -> bool:
        text = json.dumps(new)
        change = sqlalchemy.update(_TABLE).where(self._row(), _TABLE.c.value_json == old).values(value_json=text)
        with self._engine.begin() as connection:
            swapped = connection.execute(change).rowcount == 1
        if swapped:
            self._written = text
        return swapped


def _alive(owner: dict[str, Any]) -> bool:
    """Whether an owner still runs: its process if it is on this machine, else its latest sign of life."""
    here = owner["host"] == socket.gethostname() and owner["namespace"] == _namespace()
    if here and owner["pid"] == os.getpid() and owner["started"] == _started(os.getpid()):
        return owner["token"] in _HELD
    if here and owner["started"]:
        return _started(owner["pid"]) == owner["started"]
    return time.time() - owner["seen"] < STALE


def _started(pid: int) -> str:
    """When a process of this machine started, to tell it from a later one with its number; empty if it's gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "" if fields[0] == "Z" else f"{boot}:{fields[19]}"


def _namespace() -> str:
    """Containers can share a host name, but not their numbering of processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
