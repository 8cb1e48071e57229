"""Starts a race, kills it with SIGKILL, resumes it, kills it again ..., until it finishes; run as a script.

It forks each attempt from a process that has everything imported and has computed nothing, so that dozens of kills take seconds
(tests/forked.py starts it like that). A race in this process dies at some database statement or after some time; one with
workers, whose start takes long, when it has stored a few more runs.
Prints one JSON line: how many attempts were killed, and whether a stored run was ever lost, changed or done twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

# What races import is imported where it is used: workers import this file as their main module, and need nothing of it.


def attempt(task: str, out: str, workers: int, kill_at: int | None) -> None:
    """One life: the whole race, or up to the database statement number ``kill_at``."""
    import sqlalchemy
    import torch

    from thalweg.race import race

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
    return bool(values(out, "study_user_attributes", "thalweg:plan"))


def stored(out: str) -> list[str]:
    """Every stored run as it is, timings included."""
    return sorted(values(out, "trial_user_attributes", "thalweg:run"))


def values(out: str, table: str, key: str) -> list[str]:
    """What the race's database has, asked without anything of what races use."""
    path = Path(out) / "r" / "race.db"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return []
        return [row[0] for row in connection.execute(f"SELECT value_json FROM {table} WHERE key = ?", (key,))]


def kill_after(pid: int, seconds: float) -> None:
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_at_runs(pid: int, out: str, count: int) -> None:
    """Kill a race as soon as ``count`` of its runs are stored."""
    with contextlib.suppress(ProcessLookupError):
        while len(stored(out)) < count:
            time.sleep(0.01)
            os.kill(pid, 0)
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
    draws = random.Random(seed)
    killed = lost = 0
    after: list[str] = []
    for life in range(lives):
        before = after
        by_statement = life % 2 == 0 and workers == 0
        moment = draws.randint(1, 250) if by_statement else None
        pid = start(lambda moment=moment: attempt(task, out, workers, moment))
        killer = None
        if workers:
            killer = threading.Thread(target=kill_at_runs, args=(pid, out, len(before) + draws.randint(1, 4)))
        elif not by_statement:
            killer = threading.Thread(target=kill_after, args=(pid, draws.uniform(0.05, 1.5)))
        if killer is not None:
            killer.start()
        status = os.waitpid(pid, 0)[1]
        if killer is not None:
            killer.join()
        killed += os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "an attempt failed by itself"
        after = stored(out)
        lost += not set(before) <= set(after)
    assert forked(lambda: attempt(task, out, 0, None)) == 0
    before, after = after, stored(out)
    lost += not set(before) <= set(after)
    identities = [tuple(json.loads(row)[key] for key in ("recipe", "phase", "index")) for row in after]
    print(
        json.dumps(
            {"killed": killed, "lost": lost, "twice": len(identities) - len(set(identities)), "runs": len(after)}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]))
