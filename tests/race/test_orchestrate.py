import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg.race import RaceError, StorageError, race, report_of
from thalweg.race import recipe as recipes
from thalweg.tasks import Task, TaskError

KILL_OFTEN = Path(__file__).with_name("kill_often.py")
# Whole races in processes of their own: on a busy machine each start takes its time.
pytestmark = pytest.mark.timeout(900)

SMALL = {"trials": 3, "seeds": 3, "workers": 0, "report": False}


class Watcher:
    """Listens to a race, and stops it after a number of runs."""

    def __init__(self, stop_after=10**9):
        self.stop_after, self.runs, self.begun = stop_after, [], []

    def started(self, name, plan, done):
        self.begun.append((name, len(done)))

    def running(self, job, share): ...

    def finished(self, run):
        self.runs.append(run)
        if len(self.runs) >= self.stop_after:
            raise KeyboardInterrupt

    def stopped(self): ...


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The race that others are compared with."""
    one_thread = torch.get_num_threads()
    torch.set_num_threads(1)
    task = str(Path(__file__).with_name("tiny_task.py"))
    yield race(task, ["adamw", "lion"], out=tmp_path_factory.mktemp("plain"), **SMALL)
    torch.set_num_threads(one_thread)


def test_the_result(uninterrupted):
    result = uninterrupted
    assert [row.name for row in result.recipes] == ["adamw", "lion"]
    assert (result.baseline, result.task, result.goal) == ("adamw", "tiny", "max")
    assert len(result.runs) == 12
    for row in result.recipes:
        tuned, fresh = result.runs_of(row.name, "tune"), result.runs_of(row.name, "fresh")
        assert (len(tuned), len(fresh), row.trials, row.seeds) == (3, 3, 3, 3)
        assert tuned[0].settings == recipes.parse(row.name).defaults()
        best = max(tuned, key=lambda run: (run.best("max"), -run.index))
        assert row.settings == best.settings == fresh[0].settings
        assert not {run.seed for run in tuned} & {run.seed for run in fresh}
    pairs = zip(result.runs_of("adamw", "fresh"), result.runs_of("lion", "fresh"), strict=True)
    assert all(a.seed == b.seed and a.metric[0] == b.metric[0] for a, b in pairs)
    json.dumps(result.summary(), allow_nan=False)


def test_stopped_after_every_run_the_table_is_the_same(uninterrupted, tiny_path, tmp_path, table):
    """Stop after every single run, and resume."""
    options = {"out": tmp_path, "name": "r", **SMALL}
    for life in range(11):
        with pytest.raises(KeyboardInterrupt):
            race(tiny_path, ["adamw", "lion"], resume=life > 0, progress=Watcher(1), **options)
    last = Watcher()
    result = race(resume=True, progress=last, **{k: options[k] for k in ("out", "workers", "report")})
    assert last.begun == [("r", 11)] and len(last.runs) == 1
    assert table(result) == table(uninterrupted)
    untouched = Watcher()
    assert table(race(resume=True, progress=untouched, out=tmp_path, report=False)) == table(uninterrupted)
    assert untouched.begun == []


@pytest.mark.parametrize(("workers", "lives"), [(0, 14), (2, 2)])
def test_kill_9_at_many_moments(uninterrupted, tiny_path, tmp_path, table, start_python, workers, lives):
    words = [str(KILL_OFTEN), tiny_path, str(tmp_path), str(workers), str(lives), "1"]
    attempts = start_python(*words)
    said, complaints = attempts.communicate(timeout=800)
    assert attempts.returncode == 0, complaints[-3000:]
    counts = json.loads(said)
    assert counts["killed"] >= max(1, lives // 3)
    assert (counts["lost"], counts["twice"], counts["runs"]) == (0, 0, 12)
    assert table(race(resume=True, out=tmp_path, report=False)) == table(uninterrupted)


def test_killed_workers_change_nothing(uninterrupted, tiny_path, tmp_path, table, start_thalweg):
    """One worker is killed as it starts, the other in the middle of the race; their runs are done again.

    A worker's replacement does its run again, so that no run loses its worker twice: see test_execute.py for that.
    """
    words = ["adamw", "lion", "--task", tiny_path, "--trials", "3", "--seeds", "3", "--workers", "2"]
    main = start_thalweg("race", *words, "--out", str(tmp_path), "--name", "r")
    deadline = time.monotonic() + 600
    while len(workers := children(main.pid)) < 2:
        assert main.poll() is None and time.monotonic() < deadline, main.stderr.read()
        time.sleep(0.01)
    draws = random.Random(0)
    doomed, later = draws.sample(workers, 2)
    time.sleep(draws.uniform(0.0, 2.0))
    os.kill(doomed, signal.SIGKILL)
    wait_for_runs(tmp_path / "r" / "race.db", draws.randint(1, 6), main)
    with contextlib.suppress(ProcessLookupError):  # on a busy machine the race may be over by now
        os.kill(later, signal.SIGKILL)
    assert main.wait(600) == 0, main.stderr.read()
    assert table(report_of(str(tmp_path / "r"))) == table(uninterrupted)


def children(pid):
    """Worker processes of a race; not the resource tracker of multiprocessing."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rsplit(")", 1)[1].split()[1]
            if int(parent) == pid and "spawn_main" in (stat.parent / "cmdline").read_text():
                found.append(int(stat.parent.name))
        except (OSError, IndexError):
            continue
    return found


def test_ctrl_c_ends_soon_and_says_how_to_go_on(tiny_path, tmp_path, start_thalweg):
    words = ["adamw", "lion", "--task", tiny_path, "--steps", "400", "--workers", "2"]
    place = ["--out", str(tmp_path), "--name", "r"]
    main = start_thalweg("race", *words, *place, start_new_session=True, interruptible=True)
    wait_for_runs(tmp_path / "r" / "race.db", 2, main)
    workers = children(main.pid)
    os.killpg(main.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, said = main.communicate(timeout=120)
    assert main.returncode == 130
    assert "Traceback" not in said
    assert re.search(r"stopped; \d+ of 22 runs are kept. Go on with: thalweg race --resume --name r --out", said)
    deadline = time.monotonic() + 60  # the kernel takes its time to clear a killed process away
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert race_runs(tmp_path / "r" / "race.db") >= 2


def race_runs(path):
    if not path.exists():
        return 0
    with sqlite3.connect(path, timeout=30) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'trial_user_attributes'").fetchall()
        query = "SELECT COUNT(*) FROM trial_user_attributes WHERE key = 'thalweg:run'"
        return connection.execute(query).fetchone()[0] if tables else 0


def wait_for_runs(path, count, process):
    deadline = time.monotonic() + 600
    while race_runs(path) < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_races_on_one_file_at_once(uninterrupted, tiny_path, tmp_path, table, start_thalweg):
    words = ["adamw", "lion", "--task", tiny_path, "--trials", "3", "--seeds", "3", "--workers", "0", "--json"]
    both = ["--storage", str(tmp_path / "both.db"), "--out", str(tmp_path)]
    racers = [start_thalweg("race", *words, *both, "--name", name) for name in ("one", "two")]
    said = [racer.communicate(timeout=600) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0], said
    for name in ("one", "two"):
        result = report_of(str(tmp_path / "both.db"), name)
        assert table(result) == table(uninterrupted)
    with pytest.raises(RaceError, match=r"say with --name which race .*; it has one, two"):
        report_of(str(tmp_path / "both.db"))


def test_the_same_race_twice_at_once_is_refused(tiny_path, tmp_path, start_thalweg):
    words = ["adamw", "--task", tiny_path, "--steps", "2000", "--workers", "0", "--out", str(tmp_path), "--name", "r"]
    first = start_thalweg("race", *words)
    try:
        wait_for_runs(tmp_path / "r" / "race.db", 1, first)
        with pytest.raises(RaceError, match=f"race 'r' is being run by process {first.pid}"):
            race(resume=True, out=tmp_path, name="r")
    finally:
        first.kill()
        first.communicate()


def test_what_is_resumed_must_be_the_same(tiny_path, tmp_path):
    options = {"out": tmp_path, "name": "r", **SMALL}
    with pytest.raises(KeyboardInterrupt):
        race(tiny_path, ["adamw", "lion"], progress=Watcher(1), **options)
    for changed, message in [
        ({"steps": 13}, "started with steps 12, not 13"),
        ({"seeds": 4}, "started with seeds 3, not 4"),
        ({"precision": "bf16-true"}, "started with precision '32-true', not 'bf16-true'"),
        ({"recipes": ["adamw"]}, "started with recipes adamw, lion, not adamw"),
        ({"baseline": "lion"}, "started with baseline 'adamw', not 'lion'"),
        ({"task": "digits"}, "started with task 'tiny', not 'digits'"),
    ]:
        with pytest.raises(RaceError, match=message):
            race(resume=True, **{**options, **changed})
    with pytest.raises(RaceError, match=r"race 'r' exists already in .*use --resume, or another --name"):
        race(tiny_path, ["adamw", "lion"], **options)
    with pytest.raises(RaceError, match="no race 'other' in"):
        race(resume=True, out=tmp_path, name="other")
    with pytest.raises(RaceError, match=r"not finished \(1 of 12 runs\); go on with --resume"):
        report_of(str(tmp_path / "r"))


def test_a_task_file_that_changed_is_not_resumed(tiny_path, tmp_path):
    copy = tmp_path / "mine.py"
    copy.write_text(Path(tiny_path).read_text())
    with pytest.raises(KeyboardInterrupt):
        race(copy, ["adamw"], out=tmp_path, name="r", progress=Watcher(1), **SMALL)
    copy.write_text(copy.read_text() + "\n")
    with pytest.raises(RaceError, match=r"mine\.py has changed since race 'r' started"):
        race(resume=True, out=tmp_path, name="r")


def test_failures_are_rows_not_the_end(tiny, tmp_path):
    """One recipe that diverges from any start and one that raises, beside one that works."""
    calls = []

    def loss(outputs, targets):
        calls.append(outputs)
        if len(calls) % 7 == 0:
            raise ValueError("the seventh call")
        return nn.functional.cross_entropy(outputs, targets)

    task = dataclasses.replace(tiny, loss=loss)
    result = race(task, ["adamw", "sgd(lr=1e30)"], out=tmp_path, **SMALL)
    outcomes = {run.outcome for run in result.runs}
    assert "raised" in outcomes
    assert len(result.runs) == 12 and len(result.recipes) == 2
    raised = next(run for run in result.runs if run.outcome == "raised")
    assert raised.message.startswith("ValueError: the seventh call (test_orchestrate.py:")

    result = race(tiny, ["adamw", "sgd(lr=1e30)"], out=tmp_path, **SMALL)
    bad = result.recipes[1]
    assert bad.diverged == 3 and bad.verdict != "faster"
    assert {run.outcome for run in result.runs if run.recipe == "adamw"} == {"finished"}


def test_the_baseline_joins_the_recipes(tiny, tmp_path):
    result = race(tiny, ["lion"], baseline="sgd", trials=1, seeds=1, steps=3, workers=0, out=tmp_path, report=False)
    assert [row.name for row in result.recipes] == ["sgd", "lion"]
    assert result.baseline == "sgd"


def test_a_task_object_can_not_be_resumed_without_it(tiny, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        race(tiny, ["adamw"], out=tmp_path, name="r", progress=Watcher(1), **SMALL)
    with pytest.raises(RaceError, match=r"made in Python \(tiny\); resume it from there"):
        race(resume=True, out=tmp_path, name="r")
    assert len(race(tiny, resume=True, out=tmp_path, name="r", workers=0, report=False).runs) == 6


def test_a_task_that_can_not_travel(tmp_path):
    X = torch.ones(40, 1)
    task = Task("mine", lambda: nn.Linear(1, 1), (X, X), (X, X), nn.functional.mse_loss, batch_size=2)
    with pytest.raises(TaskError, match="task 'mine': its model can't be sent to worker processes"):
        race(task, ["adamw"], out=tmp_path, workers=1)
    assert not list(tmp_path.iterdir())


def test_a_database_that_goes_away_in_the_middle(tiny_path, tmp_path):
    options = {"out": tmp_path, "name": "r", **SMALL}

    class Thief(Watcher):
        def finished(self, run):
            super().finished(run)
            if len(self.runs) == 3:
                (tmp_path / "r" / "race.db").rename(tmp_path / "elsewhere.db")

    with pytest.raises(
        StorageError, match=r"moved or deleted while the race ran|can't be opened|reading or writing failed"
    ):
        race(tiny_path, ["adamw", "lion"], progress=Thief(), **options)
    (tmp_path / "r" / "race.db").unlink(missing_ok=True)
    (tmp_path / "elsewhere.db").rename(tmp_path / "r" / "race.db")
    again = Watcher()
    assert len(race(resume=True, progress=again, out=tmp_path, name="r", workers=0, report=False).runs) == 12
    assert len(again.runs) == 9


def test_tensorboard_files(tiny, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = {"trials": 1, "seeds": 1, "steps": 4, "workers": 0, "report": False}
    result = race(tiny, ["adamw + orthogonal"], out=tmp_path, name="r", tensorboard=tmp_path / "tb", **options)
    folder = tmp_path / "tb" / "r" / "adamw_+_orthogonal" / "fresh-0"
    events = EventAccumulator(str(folder)).Reload()
    assert [event.value for event in events.Scalars("accuracy")] == pytest.approx(result.runs[1].metric)
    assert len(events.Scalars("train_loss")) == len(result.runs[1].steps) - 1


def test_a_users_own_optimizer_races(tiny_path, tmp_path):
    """A method that a task file registers is known to the race and to its workers."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom thalweg.registry import method\n" + Path(tiny_path).read_text() + "\n\n"
        '@method("mine", seam="optim", search={"lr": ("log", 1e-3, 1.0)})\n'
        "class Mine(torch.optim.SGD):\n"
        "    def __init__(self, model, lr=0.1):\n"
        "        super().__init__(model.parameters(), lr=lr)\n"
    )
    options = {"trials": 2, "seeds": 1, "out": tmp_path, "report": False}
    result = race(path, ["adamw", "mine + orthogonal"], workers=1, **options)
    assert {run.outcome for run in result.runs} == {"finished"}
    assert set(result.recipes[1].settings) == {"lr", "gain"}
    with pytest.raises(ValueError, match="unknown setting of mine 'momentum'"):
        race(path, ["mine(momentum=0.9)"], **options)


def test_tensorboard_that_is_missing_is_said_before_the_race_starts(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RaceError, match="pip install tensorboard"):
        race(tiny, ["adamw"], out=tmp_path / "runs", tensorboard=tmp_path, **SMALL)
    assert not (tmp_path / "runs").exists()
