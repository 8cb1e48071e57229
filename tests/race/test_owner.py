import json
import os
import subprocess
import sys
import time

import pytest
import sqlalchemy

from thalweg.race import owner as owners
from thalweg.race.errors import RaceError
from thalweg.race.owner import Ownership
from thalweg.race.storage import Storage


@pytest.fixture
def engine(tmp_path):
    with Storage(str(tmp_path / "o.db"), "r") as storage:
        storage._study("r")
        yield storage._rdb.engine


def test_one_at_a_time(engine):
    first, second = Ownership(engine, 1, "r"), Ownership(engine, 1, "r")
    first.acquire()
    with pytest.raises(RaceError, match=f"being run by process {os.getpid()} on "):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_dead_owner_is_replaced(engine):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine = Ownership(engine, 1, "r")
    theirs = {**mine._mine, "pid": child.pid, "started": owners._started(child.pid), "seen": time.time(), "token": "x"}
    mine._insert_empty()
    assert mine._swap("null", theirs)
    with pytest.raises(RaceError, match=f"process {child.pid}"):
        Ownership(engine, 1, "r").acquire()
    child.kill()
    child.wait()
    third = Ownership(engine, 1, "r")
    third.acquire()
    third.release()


@pytest.mark.parametrize(("age", "alive"), [(5.0, True), (owners.STALE + 5, False)])
def test_an_owner_elsewhere_lives_by_its_heartbeat(engine, age, alive):
    mine = Ownership(engine, 1, "r")
    mine._insert_empty()
    mine._swap("null", {**mine._mine, "host": "elsewhere", "seen": time.time() - age})
    other = Ownership(engine, 1, "r")
    if alive:
        with pytest.raises(RaceError, match="on elsewhere"):
            other.acquire()
    else:
        other.acquire()
        other.release()


def test_only_one_of_two_swaps_wins(engine):
    a, b = Ownership(engine, 1, "r"), Ownership(engine, 1, "r")
    a._insert_empty()
    b._insert_empty()
    assert a._swap("null", a._record())
    assert not b._swap("null", b._record())


def test_the_heartbeat_beats_and_notices_a_takeover(engine, monkeypatch):
    monkeypatch.setattr(owners, "HEARTBEAT", 0.05)
    mine = Ownership(engine, 1, "r")
    mine.acquire()
    seen = json.loads(mine._read())["seen"]
    deadline = time.monotonic() + 100
    while json.loads(mine._read())["seen"] == seen:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    mine.check()
    with engine.begin() as connection:
        connection.execute(sqlalchemy.update(owners._TABLE).values(value_json='{"token": "theirs"}'))
    while not mine._lost:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(RaceError, match="taken over"):
        mine.check()
    mine.release()
    assert json.loads(mine._read()) == {"token": "theirs"}
