"""Races on a real Ray, started for these tests on this machine."""

import importlib.util
import os
import signal

import pytest

from thalweg.race import RaceError, race
from thalweg.race.job import Conditions, Job
from thalweg.race.records import Run
from thalweg.race.spec import TaskSpec

pytestmark = [pytest.mark.service, pytest.mark.timeout(900)]
NEEDED = "Ray is not installed (pip install 'thalweg[ray]')"
SMALL = {"trials": 2, "seeds": 2, "report": False}


@pytest.fixture
def ray(require_service, monkeypatch):
    """A Ray of two cores, whose workers don't give way to whatever else the machine does, as Ray's usually do."""
    monkeypatch.setenv("RAY_worker_niceness", "0")
    require_service(importlib.util.find_spec("ray"), NEEDED)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_on_ray(ray, tiny_path, tmp_path):
    """One test, since Ray takes its time to start: were these two, two test processes might start one each."""
    a_race_equals_one_in_this_process(tiny_path, tmp_path)
    a_worker_that_is_killed_is_replaced(tiny_path, tmp_path)


def a_race_equals_one_in_this_process(tiny_path, tmp_path):
    there = race(tiny_path, ["adamw", "lion"], ray="local", workers=2, out=tmp_path, **SMALL)
    here = race(tiny_path, ["adamw", "lion"], workers=0, out=tmp_path, **SMALL)
    assert {run.outcome for run in there.runs} == {"finished"}
    assert [run.settings for run in there.runs] == [run.settings for run in here.runs]
    assert [run.metric for run in there.runs] == [pytest.approx(run.metric, abs=1e-6) for run in here.runs]


def a_worker_that_is_killed_is_replaced(tiny_path, tmp_path):
    from thalweg.race.ray_executor import RayExecutor

    path = tmp_path / "deadly.py"
    folder, count = tiny_path.rsplit("/", 1)[0], tmp_path / "count"
    path.write_text(
        f"import sys, os, signal, dataclasses\nfrom pathlib import Path\nsys.path.append({folder!r})\n"
        f"from tiny_task import task as tiny\nCOUNT = Path({str(count)!r})\n"
        "def model():\n"
        "    lives = int(COUNT.read_text()) if COUNT.exists() else 0\n"
        "    COUNT.write_text(str(lives + 1))\n"
        "    if lives in (0, 100, 101):\n"
        f"        os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
        "    return tiny().model()\n"
        "def task():\n    return dataclasses.replace(tiny(), model=model)\n"
    )
    executor = RayExecutor(TaskSpec.of(path), Conditions(steps=3, device="cpu"), "local", 1, 1)
    try:
        outcomes = []
        for index in range(2):
            count.write_text("0" if index == 0 else "100")
            executor.submit(Job("adamw", "fresh", index, index, {"lr": 0.01}))
            while len(outcomes) <= index:
                outcomes += [event.outcome for event in executor.events(5.0) if isinstance(event, Run)]
    finally:
        executor.close()
    assert outcomes == ["finished", "killed"]
    assert os.path.exists(count)


def test_no_cluster_there(require_service, tiny_path, tmp_path):
    require_service(importlib.util.find_spec("ray"), NEEDED)
    import ray

    ray.shutdown()
    with pytest.raises(RaceError, match=r"can't reach Ray at 127.0.0.1:1: "):
        race(tiny_path, ["adamw"], ray="127.0.0.1:1", workers=1, out=tmp_path, **SMALL)
