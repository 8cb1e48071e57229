import math
import os
import signal
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from thalweg.race import storage as storages
from thalweg.race.errors import RaceError, StorageError
from thalweg.race.job import Conditions
from thalweg.race.plan import Plan
from thalweg.race.records import Run
from thalweg.race.storage import Storage


def plan():
    return Plan(
        task="tiny",
        source="tiny",
        fingerprint="",
        metric_name="accuracy",
        goal="max",
        recipes=["adamw", "lion"],
        baseline="adamw",
        trials=2,
        tuning_seeds=1,
        seeds=2,
        seed=0,
        conditions=Conditions(steps=5),
        spaces={"adamw": {"lr": ("log", 1e-3, 1.0)}, "lion": {"rule": ("choice", "a", "b")}},
        settings={"adamw": [{"lr": 0.1}, {"lr": 0.2}], "lion": [{"rule": "a"}, {"rule": "b"}]},
    )


def run(index=0, phase="tune", recipe="adamw", **changes):
    values = {
        "settings": {"lr": 0.1},
        "steps": [0, 5],
        "metric": [0.2, 0.7],
        "seconds": [0.0, 1.5],
        "train_loss": [math.nan, 2.0],
    }
    return Run(recipe, phase, index, 1, **{**values, **changes})


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "race.db")


@pytest.fixture
def store(path):
    with Storage(path, "r") as storage:
        storage.begin(resume=False)
        storage.write_plan(plan())
        yield storage


def test_plan_and_runs_come_back(store, path):
    failed = run(1, outcome="diverged", message="loss is nan", metric=[0.2, math.nan])
    for item in (run(), failed, run(phase="fresh"), run(recipe="lion", settings={"rule": "b"})):
        store.write_run(plan(), item)
    store.close()
    with Storage(path, "r") as again:
        assert again.begin(resume=True) == plan()
        runs = again.read_runs(plan())
    assert [(r.recipe, r.phase, r.index, r.outcome) for r in runs] == [
        ("adamw", "tune", 0, "finished"),
        ("adamw", "tune", 1, "diverged"),
        ("adamw", "fresh", 0, "finished"),
        ("lion", "tune", 0, "finished"),
    ]
    assert runs[0].metric == [0.2, 0.7] and math.isnan(runs[0].train_loss[0])
    assert math.isnan(runs[1].metric[1])


def test_optuna_reads_it(store, path):
    store.write_run(plan(), run())
    store.write_run(
        plan(), run(1, outcome="raised", settings={"lr": 0.2}, steps=[], metric=[], seconds=[], train_loss=[])
    )
    study = optuna.load_study(study_name="r/adamw/tune", storage=f"sqlite:///{path}")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.best_value == 0.7
    assert study.best_params == {"lr": 0.1}
    assert study.trials[0].intermediate_values == {0: 0.2, 5: 0.7}
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL"]


def test_a_default_outside_the_searched_range_is_kept_as_a_setting(store):
    store.write_run(plan(), run(settings={"lr": 0.0}))
    assert store.read_runs(plan())[0].settings == {"lr": 0.0}


def test_a_run_stored_twice_counts_once(store):
    store.write_run(plan(), run())
    store.write_run(plan(), run(metric=[0.2, 0.9]))
    assert [r.metric for r in store.read_runs(plan())] == [[0.2, 0.7]]


def test_a_run_is_one_transaction(store, path):
    """Whatever statement fails, nothing of the run is left."""
    store.write_run(plan(), run())
    rows = [sum(1 for _ in sqlite3.connect(path).iterdump())]
    statements = []
    engine = store._rdb.engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda c, cur, text, *rest: statements.append(text))
    store.write_run(plan(), run(1))
    writes = sum(text.startswith(("INSERT", "UPDATE")) for text in statements)
    rows.append(sum(1 for _ in sqlite3.connect(path).iterdump()))
    assert writes > 3
    for stop_at in range(1, writes + 1):
        seen = 0

        def fail(c, cursor, text, *rest, stop_at=stop_at):
            nonlocal seen
            seen += text.startswith(("INSERT", "UPDATE"))
            if seen == stop_at:
                raise ZeroDivisionError

        sqlalchemy.event.listen(engine, "before_cursor_execute", fail)
        with pytest.raises(ZeroDivisionError):
            store.write_run(plan(), run(2))
        sqlalchemy.event.remove(engine, "before_cursor_execute", fail)
        assert sum(1 for _ in sqlite3.connect(path).iterdump()) == rows[-1]


@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute", "commit"])
def test_ctrl_c_while_a_run_is_written(store, path, moment):
    """It waits for the transaction: cut in the middle, one may keep its lock, and closing would wait for that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    store.write_run(plan(), run(0))
    once = iter([True])
    sqlalchemy.event.listen(
        store._rdb.engine, moment, lambda *_: next(once, False) and os.kill(os.getpid(), signal.SIGINT)
    )
    try:
        with pytest.raises(KeyboardInterrupt):
            store.write_run(plan(), run(1))
    finally:
        signal.signal(signal.SIGINT, before)
    store.close()
    with Storage(path, "r") as again:
        again.begin(resume=True)
        assert [stored.index for stored in again.read_runs(plan())] == [0, 1]


def test_new_and_resumed(store, path):
    store.close()
    with (
        Storage(path, "r") as again,
        pytest.raises(RaceError, match=r"exists already in .*; use --resume, or another --name"),
    ):
        again.begin(resume=False)
    with (
        Storage(path, "other") as again,
        pytest.raises(RaceError, match=r"no race 'other' to resume in .*; it has 'r'"),
    ):
        again.begin(resume=True)


def test_a_race_killed_before_its_plan_was_stored_is_new(path):
    with Storage(path, "r") as first:
        first.begin(resume=False)
    with Storage(path, "r") as second:
        assert second.begin(resume=False) is None


def test_the_same_race_twice_at_once(store, path):
    with Storage(path, "r") as second, pytest.raises(RaceError, match="is being run by process"):
        second.begin(resume=True)


def test_a_locked_file_is_waited_for(store, path, monkeypatch):
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    releaser = threading.Timer(1.0, lambda: other.execute("ROLLBACK"))
    releaser.start()
    store.write_run(plan(), run())
    releaser.join()
    other.close()
    assert len(store.read_runs(plan())) == 1


def test_not_a_database(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("hello " * 1000)
    with pytest.raises(StorageError, match="is not a SQLite database"):
        Storage(str(file), "r")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StorageError, match="does its folder exist"):
        Storage(str(tmp_path / "no" / "race.db"), "r")


def test_a_read_only_file(store, path):
    store.write_run(plan(), run())
    if os.geteuid() != 0:
        Path(path).chmod(0o400)
        Path(path).parent.chmod(0o500)
    else:  # root may write to anything, except where the connection itself is read-only

        @sqlalchemy.event.listens_for(store._rdb.engine, "connect")
        def read_only(connection, record):
            connection.execute("PRAGMA query_only = ON")

        store._rdb.engine.dispose()
    with pytest.raises(StorageError, match="it is read-only; choose another place"):
        store.write_run(plan(), run(1))
    if os.geteuid() != 0:
        Path(path).parent.chmod(0o700)
    assert len(store.read_runs(plan())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with Storage(str(disk / "race.db"), "r") as store:
            store.begin(resume=False)
            store.write_plan(plan())
            written = 0
            with pytest.raises(StorageError, match=r"disk (is|may be) full; what was finished is kept"):
                while written < 200:
                    store.write_run(plan(), run(written, message="x" * 20_000))
                    written += 1
            assert 0 < written < 200
            assert len(store.read_runs(plan())) == written
            (disk / "race.db").chmod(0o600)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_in_sqlites_words(store, monkeypatch):
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"

    def full(*_):
        raise sqlalchemy.exc.OperationalError("INSERT", {}, error)

    monkeypatch.setattr(optuna.Study, "add_trial", full)
    with pytest.raises(StorageError, match="the disk is full; what was finished is kept: make room, then use --resume"):
        store.write_run(plan(), run())


def test_a_lost_connection_is_tried_again_for_a_while(store, monkeypatch):
    lost = sqlalchemy.exc.OperationalError("SELECT", {}, Exception("server closed the connection unexpectedly"))
    add, calls = optuna.Study.add_trial, []

    def flaky(study, trial):
        calls.append(trial)
        if len(calls) < 3:
            raise lost
        add(study, trial)

    monkeypatch.setattr(optuna.Study, "add_trial", flaky)
    store.write_run(plan(), run())
    assert len(calls) == 3 and len(store.read_runs(plan())) == 1

    monkeypatch.setattr(storages, "PATIENCE", 0.5)
    monkeypatch.setattr(optuna.Study, "add_trial", lambda *_: (_ for _ in ()).throw(lost))
    start = time.monotonic()
    with pytest.raises(StorageError, match="server closed the connection unexpectedly; what was finished is kept"):
        store.write_run(plan(), run(1))
    assert time.monotonic() - start >= 0.4


def test_nothing_is_unpickled(store, path):
    store.write_run(plan(), run())
    text = "\n".join(sqlite3.connect(path).iterdump())
    assert "pickle" not in text
    columns = sqlite3.connect(path).execute("SELECT type FROM pragma_table_info('trial_user_attributes')").fetchall()
    assert ("BLOB",) not in columns


def test_a_name_that_is_too_long(store):
    with pytest.raises(RaceError, match="too long"):
        store._study("x" * 600)


def test_many_processes_make_the_same_database_at_once(path, tmp_path, start_python):
    """Tables are made by the first to come; the others notice and go on."""
    code = (
        "import sys, time; from pathlib import Path; from thalweg.race.storage import Storage\n"
        "Path(sys.argv[2], sys.argv[3]).touch()\n"
        "while not Path(sys.argv[2], 'go').exists(): time.sleep(0.001)\n"
        "with Storage(sys.argv[1], sys.argv[3]) as s: s.begin(False)"
    )
    children = [start_python("-c", code, path, str(tmp_path), f"r{number}") for number in range(4)]
    deadline = time.monotonic() + 200
    while not all((tmp_path / f"r{number}").exists() for number in range(4)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = [child.communicate(timeout=200)[1] for child in children]
    assert [child.returncode for child in children] == [0] * 4, said
