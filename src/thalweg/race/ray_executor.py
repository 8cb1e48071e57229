"""Runs on a Ray cluster: one actor a worker, which keeps the task and runs one job after the other."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import thalweg
from thalweg.race.errors import RaceError
from thalweg.race.execute import ATTEMPTS, Event, cpu_count, killed
from thalweg.race.job import Conditions, Job
from thalweg.race.outcome import one_line
from thalweg.race.records import Run
from thalweg.race.spec import TaskSpec
from thalweg.tasks.task import TaskError

_joined = False


class RayExecutor:
    """Runs jobs in Ray actors; one that dies is replaced, and its job tried once more.

    Every node needs thalweg's dependencies; thalweg itself is sent along. A task file travels with its text.

    Args:
        spec: the task, pickled if it is an object.
        conditions: what holds for every run.
        address: of a cluster, or ``"local"`` for one on this machine that ends with the race.
        workers: number of actors.
        threads: CPU cores, and torch threads, of each.

    Raises:
        RaceError: Ray is not installed, or the cluster can't be reached.
    """

    def __init__(self, spec: TaskSpec, conditions: Conditions, address: str, workers: int, threads: int) -> None:
        self._ray = connect(address)
        self.slots = workers
        self._start = (spec, conditions, threads)
        gpus = conditions.devices if _wants_gpus(self._ray, conditions) else 0
        self._actor = self._ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(_Worker)
        self._idle: list[Any] = [self._spawn() for _ in range(workers)]
        self._running: dict[Any, tuple[Any, Job]] = {}
        self._deaths: dict[tuple[str, str, int], int] = {}

    def submit(self, job: Job) -> None:
        """Give a job to an idle actor."""
        self._give(self._idle.pop(), job)

    def events(self, timeout: float) -> Iterator[Event]:
        """Finished runs."""
        if not self._running:
            return
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        for reference in ready:
            actor, job = self._running.pop(reference)
            try:
                kind, value = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                yield from self._bury(job, f"the Ray worker died ({one_line(str(error))})")
                continue
            if kind == "failed":
                raise TaskError(value)
            if kind == "died":
                self._ray.kill(actor)
                yield from self._bury(job, value)
            else:
                self._idle.append(actor)
                yield Run.from_json(value)

    def close(self) -> None:
        """Kill the actors, and leave the cluster if this module joined it."""
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        disconnect()

    def _give(self, actor: Any, job: Job) -> None:
        self._running[actor.run.remote(job)] = (actor, job)

    def _bury(self, job: Job, reason: str) -> Iterator[Event]:
        identity = (job.recipe, job.phase, job.index)
        self._deaths[identity] = self._deaths.get(identity, 0) + 1
        replacement = self._spawn()
        if self._deaths[identity] < ATTEMPTS:
            self._give(replacement, job)
        else:
            self._idle.append(replacement)
            yield killed(job, reason)

    def _spawn(self) -> Any:
        return self._actor.remote(*self._start)


def connect(address: str) -> Any:
    """Ray, connected to the cluster at ``address``; one that is connected already is used as it is."""
    global _joined
    ray = _ray()
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a worker without GPUs sees none, silently
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"num_cpus": cpu_count(), "include_dashboard": False}
    else:
        _check_reachable(address)
        options |= {"runtime_env": {"py_modules": [str(Path(thalweg.__file__).parent)]}}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise RaceError(f"can't reach Ray at {address}: {one_line(str(error))}") from None
    _joined = True
    return ray


def disconnect() -> None:
    """Leave the cluster if :func:`connect` joined it."""
    global _joined
    if _joined:
        _ray().shutdown()
        _joined = False


def cluster_slots(address: str, conditions: Conditions) -> int:
    """Runs that a cluster can train at the same time: by GPU where runs use them, else one a core."""
    ray = connect(address)
    resources = ray.cluster_resources()
    kind = "GPU" if _wants_gpus(ray, conditions) else "CPU"
    return max(1, int(resources.get(kind, 1)) // conditions.devices)


class _Worker:
    """The actor: loads the task with its first job, so that a bad task is an answer, not a dead actor."""

    def __init__(self, spec: TaskSpec, conditions: Conditions, threads: int) -> None:
        self._start = (spec, conditions, threads)
        self._runner: Any = None

    def run(self, job: Job) -> tuple[str, Any]:
        """Run one job; the answer is a message as worker processes send it."""
        from thalweg.race.errors import WorkerDied
        from thalweg.race.worker import make_runner

        try:
            self._runner = self._runner or make_runner(*self._start)
            return "done", self._runner.run(job, lambda share: None).to_json()
        except WorkerDied as death:
            return "died", str(death)
        except Exception as error:
            return "failed", one_line(str(error))


def _check_reachable(address: str) -> None:
    """Ray itself tries an address for minutes before it says that nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return  # "auto" and the like: Ray looks for its own files
    try:
        socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise RaceError(f"can't reach Ray at {address}: {one_line(str(error))}") from None


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise RaceError("--ray needs Ray: pip install 'thalweg[ray]'") from None
    return ray


def _wants_gpus(ray: Any, conditions: Conditions) -> bool:
    if conditions.device in ("cuda", "gpu"):
        return True
    return conditions.device == "auto" and ray.cluster_resources().get("GPU", 0) >= conditions.devices
