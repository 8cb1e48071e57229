"""Starts a race, kills it with SIGKILL, resumes it, kills it again ..., until it finishes; run as a script.

It forks each attempt from a process that has everything imported and has computed nothing, so that dozens of kills take seconds.
Prints one JSON line: how many attempts were killed, and whether a stored run was ever lost, changed or done twice.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import sqlalchemy
import torch

from thalweg.race import race
from thalweg.race.recipe import load_methods
from thalweg.race.storage import Storage

LOADED_BY_EVERY_LIFE = (
    "alembic.config",
    "alembic.migration",
    "alembic.script",
    "lightning_fabric",
    "optuna.storages._rdb.models",
    "scipy.stats",
    "sqlalchemy.dialects.sqlite",
    "torch._dynamo",
    "thalweg.race.statistics",
    "thalweg.race.trial",
)


def attempt(task: str, out: str, workers: int, kill_at: int | None) -> None:
    """One life: the whole race, or up to the database statement number ``kill_at``."""
    torch.set_num_threads(1)
    if kill_at is not None:
        left = [kill_at]

        @sqlalchemy.event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
        def count(*_: object) -> None:
            left[0] -= 1
            if left[0] <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    race(
        task, ["adamw", "lion"], trials=3, seeds=3, name="r", out=out, workers=workers, resume=begun(out), report=False
    )


def begun(out: str) -> bool:
    """Whether the race's plan is stored."""
    if not (Path(out) / "r" / "race.db").exists():
        return False
    with Storage(str(Path(out) / "r" / "race.db"), "r") as store:
        return store.read_plan() is not None


def stored(out: str) -> list[str]:
    """Every stored run as it is, timings included."""
    path = Path(out) / "r" / "race.db"
    if not path.exists():
        return []
    with Storage(str(path), "r") as store:
        rows = "SELECT value_json FROM trial_user_attributes WHERE key = 'thalweg:run'"
        with store._rdb.engine.connect() as connection:
            return sorted(connection.execute(sqlalchemy.text(rows)).scalars())


def kill_after(pid: int, seconds: float) -> None:
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def forked(action) -> int:
    """Wait status of a child that did ``action``."""
    pid = start(action)
    return os.waitpid(pid, 0)[1]


def start(action) -> int:
    """A child that does ``action`` and ends."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        action()
        code = 0
    finally:
        os._exit(code)


def main(task: str, out: str, workers: int, lives: int, seed: int) -> None:
    for module in LOADED_BY_EVERY_LIFE:
        importlib.import_module(module)
    load_methods()
    draws = random.Random(seed)
    killed = lost = 0
    after: list[str] = []
    for life in range(lives):
        before = after
        by_statement = life % 2 == 0 and workers == 0
        moment = draws.randint(1, 250) if by_statement else None
        pid = start(lambda moment=moment: attempt(task, out, workers, moment))
        if not by_statement:
            delay = draws.uniform(0.05, 1.5) if workers == 0 else draws.uniform(1.0, 25.0)
            threading.Thread(target=kill_after, args=(pid, delay), daemon=True).start()
        status = os.waitpid(pid, 0)[1]
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "an attempt failed by itself"
        after = in_child(lambda: stored(out))
        lost += not set(before) <= set(after)
    assert forked(lambda: attempt(task, out, workers, None)) == 0
    before, after = after, in_child(lambda: stored(out))
    lost += not set(before) <= set(after)
    identities = [tuple(json.loads(row)[key] for key in ("recipe", "phase", "index")) for row in after]
    print(
        json.dumps(
            {"killed": killed, "lost": lost, "twice": len(identities) - len(set(identities)), "runs": len(after)}
        )
    )


def in_child(action) -> list[str]:
    """What ``action`` returns, computed in a child: no database connection may be open when the next attempt is forked."""
    read, write = os.pipe()
    pid = start(lambda: os.fdopen(write, "w").write(json.dumps(action())))
    os.close(write)
    with os.fdopen(read) as pipe:
        result = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return result


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
