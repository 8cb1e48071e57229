import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from thalweg.race.errors import WorkerDied
from thalweg.race.execute import LocalExecutor, Progress, SerialExecutor, visible_gpus
from thalweg.race.job import Conditions, Job
from thalweg.race.records import Run
from thalweg.race.spec import TaskSpec
from thalweg.race.worker import InProcess
from thalweg.tasks import TaskError

CONDITIONS = Conditions(steps=12, eval_every=3, device="cpu")
DEADLY = """
import os, signal, sys
from pathlib import Path
sys.path.append({folder!r})
from tiny_task import task as tiny
from thalweg.tasks import Task
import dataclasses

COUNT = Path(__file__).with_suffix(".count")

def model():
    count = int(COUNT.read_text()) if COUNT.exists() else 0
    COUNT.write_text(str(count + 1))
    if count < {deaths}:
        os.kill(os.getpid(), signal.SIGKILL)
    return tiny().model()

def task():
    return dataclasses.replace(tiny(), model=model)
"""


def job(index=0, recipe="adamw"):
    return Job(recipe, "fresh", index, index, {"lr": 0.01, "weight_decay": 0.0})


def collect(executor, jobs):
    """Runs of all jobs, and whether progress was reported."""
    waiting, runs, shares, under_way = list(jobs), [], [], 0
    deadline = time.monotonic() + 280
    while len(runs) < len(jobs):
        while waiting and under_way < executor.slots:
            executor.submit(waiting.pop(0))
            under_way += 1
        for event in executor.events(1.0):
            if isinstance(event, Run):
                runs.append(event)
                under_way -= 1
            else:
                assert isinstance(event, Progress)
                shares.append(event.share)
        assert time.monotonic() < deadline
    return sorted(runs, key=lambda run: run.index), shares


@pytest.fixture
def deadly(tmp_path, tiny_path):
    """A task whose first runs kill their worker, as the kernel does when memory runs out."""

    def make(deaths):
        path = tmp_path / "deadly.py"
        path.write_text(DEADLY.format(folder=str(Path(tiny_path).parent), deaths=deaths))
        return TaskSpec.of(path)

    return make


def test_workers_and_this_process_give_the_same_runs(tiny, tiny_path):
    jobs = [job(i) for i in range(4)]
    serial, _ = collect(SerialExecutor(InProcess(TaskSpec.of(tiny).held(tiny), CONDITIONS, 0)), jobs)
    executor = LocalExecutor(TaskSpec.of(tiny_path), CONDITIONS, 2, 1)
    try:
        local, shares = collect(executor, jobs)
    finally:
        executor.close()
    assert [r.outcome for r in serial] == ["finished"] * 4
    assert [(r.metric, r.train_loss[1:]) for r in local] == [(r.metric, r.train_loss[1:]) for r in serial]
    assert {0.25, 0.5, 0.75, 1.0} == set(shares)


def test_a_run_whose_worker_dies_is_tried_once_more(deadly):
    executor = LocalExecutor(deadly(1), CONDITIONS, 1, 1)
    try:
        (run,), _ = collect(executor, [job()])
    finally:
        executor.close()
    assert (run.outcome, run.steps[-1]) == ("finished", 12)


def test_a_run_that_kills_its_worker_twice_is_recorded_and_the_next_one_runs(deadly):
    executor = LocalExecutor(deadly(2), CONDITIONS, 1, 1)
    try:
        runs, _ = collect(executor, [job(0), job(1)])
    finally:
        executor.close()
    assert [run.outcome for run in runs] == ["killed", "finished"]
    assert runs[0].message == "the worker was killed by signal 9 (SIGKILL), 2 times"


def test_an_idle_worker_that_is_killed_is_replaced(tiny_path):
    executor = LocalExecutor(TaskSpec.of(tiny_path), CONDITIONS, 1, 1)
    try:
        collect(executor, [job(0)])
        os.kill(executor._children[0].process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 100
        while not executor._idle_deaths and time.monotonic() < deadline:
            assert list(executor.events(0.5)) == []
        runs, _ = collect(executor, [job(1)])
    finally:
        executor.close()
    assert runs[0].outcome == "finished"


def test_a_task_that_workers_can_not_load(tmp_path):
    path = tmp_path / "fickle.py"
    path.write_text("raise ValueError('not today')")
    executor = LocalExecutor(TaskSpec.of(path), CONDITIONS, 1, 1)
    try:
        executor.submit(job())
        with pytest.raises(TaskError, match=r"fickle\.py:1: the file raised ValueError: not today"):
            collect(executor, [])
            while True:
                list(executor.events(1.0))
    finally:
        executor.close()


def test_in_this_process_a_group_that_dies_is_tried_once_more():
    class Dying:
        calls = 0

        def run(self, job, report):
            self.calls += 1
            raise WorkerDied("a rank was killed")

        def close(self): ...

    runner = Dying()
    (run,), _ = collect(SerialExecutor(runner), [job()])
    assert runner.calls == 2
    assert (run.outcome, run.message) == ("killed", "a rank was killed, 2 times")


def test_gpus_are_the_visible_ones(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert visible_gpus("auto") == ["3", "5"]
    assert visible_gpus("cpu") == []
    assert dataclasses.replace(CONDITIONS, devices=2).distributed
