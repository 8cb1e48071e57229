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

pytestmark = pytest.mark.timeout(900)
CONDITIONS = Conditions(steps=12, eval_every=3, device="cpu")
DEADLY = """
import os, signal, sys
from pathlib import Path
sys.path.append({folder!r})
from tiny_task import task as tiny
from thalweg.tasks import Task
import dataclasses

DEATHS = Path(__file__).with_suffix(".deaths")

def model():
    left = int(DEATHS.read_text())
    if left:
        DEATHS.write_text(str(left - 1))
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
    deadline = time.monotonic() + 600
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


def test_workers_and_this_process_give_the_same_runs_and_idle_workers_are_replaced(tiny, tiny_path):
    jobs = [job(i) for i in range(4)]
    serial, _ = collect(SerialExecutor(InProcess(TaskSpec.of(tiny).held(tiny), CONDITIONS, 0)), jobs)
    executor = LocalExecutor(TaskSpec.of(tiny_path), CONDITIONS, 2, 1)
    try:
        local, shares = collect(executor, jobs)
        first = executor._children[0].process.pid
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 100
        while not executor._idle_deaths and time.monotonic() < deadline:
            assert list(executor.events(0.5)) == []
        (again,), _ = collect(executor, [job(1)])  # the first idle worker takes it, which is the new one
        assert executor._children[0].process.pid != first
    finally:
        executor.close()
    assert [r.outcome for r in serial] == ["finished"] * 4
    assert [(r.metric, r.train_loss[1:]) for r in local] == [(r.metric, r.train_loss[1:]) for r in serial]
    assert {0.25, 0.5, 0.75, 1.0} == set(shares)
    assert (again.outcome, again.metric) == ("finished", serial[1].metric)


def test_a_run_whose_worker_dies_is_tried_once_more_and_no_more(tmp_path, tiny_path):
    """Runs that kill their worker, as the kernel does when memory runs out."""
    path, deaths = tmp_path / "deadly.py", tmp_path / "deadly.deaths"
    path.write_text(DEADLY.format(folder=str(Path(tiny_path).parent)))
    executor = LocalExecutor(TaskSpec.of(path), CONDITIONS, 1, 1)
    try:
        deaths.write_text("1")
        (once,), _ = collect(executor, [job(0)])
        deaths.write_text("2")
        (twice, after), _ = collect(executor, [job(1), job(2)])
    finally:
        executor.close()
    assert (once.outcome, once.steps[-1]) == ("finished", 12)
    assert (twice.outcome, after.outcome) == ("killed", "finished")
    assert twice.message == "the worker was killed by signal 9 (SIGKILL), 2 times"


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
