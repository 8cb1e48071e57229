"""Where runs happen: in this process, in local worker processes, or on Ray (:mod:`thalweg.race.ray_executor`)."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from thalweg.race.errors import RaceError, WorkerDied
from thalweg.race.job import Conditions, Job
from thalweg.race.process import Child, wait_any
from thalweg.race.records import Run
from thalweg.race.spec import TaskSpec
from thalweg.race.worker import Runner, main, make_runner
from thalweg.tasks.task import TaskError

ATTEMPTS = 2
"""How often a run is tried if the process that runs it dies."""


@dataclass
class Progress:
    """A running job has used this share of its budget."""

    job: Job
    share: float


Event = Progress | Run


class Executor(Protocol):
    """Runs jobs and hands back what happens, in the order in which it happens."""

    slots: int
    """Jobs that run at the same time."""

    def submit(self, job: Job) -> None:
        """Start a job; at most :attr:`slots` may be under way."""

    def events(self, timeout: float) -> Iterator[Event]:
        """What happened since the last call; waits up to ``timeout`` seconds for something to happen."""

    def close(self) -> None:
        """Stop at once; running jobs are lost."""


def killed(job: Job, reason: str) -> Run:
    """The record of a job whose worker died in every attempt."""
    run = job.empty_run()
    run.outcome, run.message = "killed", f"{reason}, {ATTEMPTS} times"
    return run


class SerialExecutor:
    """Runs every job in this process, one after the other: for debugging, and for tasks that don't pickle."""

    slots = 1

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Queue a job; it runs when events are asked for."""
        self._waiting.append(job)

    def events(self, timeout: float) -> Iterator[Event]:
        """Run what is queued."""
        while self._waiting:
            yield self._run(self._waiting.popleft())

    def close(self) -> None:
        """End processes that belong to distributed runs."""
        self._runner.close()

    def _run(self, job: Job) -> Run:
        reason = ""
        for _ in range(ATTEMPTS):
            try:
                return self._runner.run(job, lambda share: None)
            except WorkerDied as death:
                reason = str(death)
        return killed(job, reason)


class LocalExecutor:
    """Runs jobs in worker processes of this machine.

    A worker that dies is replaced, and its job tried once more; a job that takes its worker along twice is recorded as
    ``"killed"``. Workers end when this process does.

    Args:
        spec: the task, pickled if it is an object.
        conditions: what holds for every run.
        workers: number of processes.
        threads: torch threads of each.
    """

    def __init__(self, spec: TaskSpec, conditions: Conditions, workers: int, threads: int) -> None:
        self.slots = workers
        self._start = (spec, conditions, threads)
        self._deaths: dict[tuple[str, str, int], int] = {}
        self._idle_deaths = 0
        self._children: list[Child] = []
        self._jobs: list[Job | None] = [None] * workers
        try:
            for slot in range(workers):
                self._children.append(self._spawn(slot))
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job) -> None:
        """Send a job to an idle worker; one that is still starting takes it as soon as it is ready."""
        slot = self._jobs.index(None)
        self._jobs[slot] = job
        self._children[slot].send(job)

    def events(self, timeout: float) -> Iterator[Event]:
        """Progress and finished runs of all workers."""
        wait_any(self._children, timeout)
        for slot in range(self.slots):
            yield from self._events_of(slot)

    def close(self) -> None:
        """Kill the workers."""
        for child in self._children:
            child.process.kill()
        for child in self._children:
            child.kill()
        self._children = []

    def _events_of(self, slot: int) -> Iterator[Event]:
        child, job = self._children[slot], self._jobs[slot]
        alive = child.alive  # asked before reading: a dead worker's last words are read first
        message = child.receive()
        if message is None:
            if not alive:
                yield from self._bury(slot, *child.death())
            return
        kind, value = message
        if kind == "failed":
            raise TaskError(value)
        if kind == "died":
            yield from self._bury(slot, value, 0)
        elif kind == "progress" and job is not None:
            yield Progress(job, value)
        elif kind == "done":
            self._jobs[slot] = None
            self._idle_deaths = 0
            yield Run.from_json(value)

    def _bury(self, slot: int, reason: str, signal: int) -> Iterator[Event]:
        """Replace a dead worker; try its job again, or give the job up."""
        job, self._jobs[slot] = self._jobs[slot], None
        self._children[slot].kill()
        if job is None:
            self._idle_deaths += 1
            if self._idle_deaths > ATTEMPTS * self.slots:
                raise RaceError(f"workers keep dying before they do anything ({reason}); is there enough memory?")
        self._children[slot] = self._spawn(slot)
        if job is None:
            return
        identity = (job.recipe, job.phase, job.index)
        self._deaths[identity] = self._deaths.get(identity, 0) + 1
        if self._deaths[identity] < ATTEMPTS:
            self._jobs[slot] = job
            self._children[slot].send(job)
        else:
            yield killed(job, reason)

    def _spawn(self, slot: int) -> Child:
        _, conditions, threads = self._start
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        gpus = visible_gpus(conditions.device)
        if gpus:
            first = slot * conditions.devices % len(gpus)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + conditions.devices])
        return Child(main, self._start, environment)


def visible_gpus(device: str) -> Sequence[str]:
    """Names of the CUDA devices that runs may use; none if they train elsewhere."""
    if device not in ("auto", "cuda", "gpu"):
        return []
    import torch

    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in listed.split(",") if name.strip()] if listed is not None else None
    return names if names is not None else [str(number) for number in range(torch.cuda.device_count())]


def default_workers(conditions: Conditions) -> int:
    """As many workers as runs fit: one for each group of GPUs, else one for each CPU core, at most 8."""
    gpus = visible_gpus(conditions.device)
    if gpus:
        return max(1, len(gpus) // conditions.devices)
    return max(1, min(8, cpu_count() // conditions.devices))


def cpu_count() -> int:
    """CPU cores this process may use."""
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_executor(spec: TaskSpec, conditions: Conditions, workers: int, threads: int, ray: str | None) -> Executor:
    """The executor that a race asks for: Ray, local processes, or this process (``workers=0``)."""
    if ray is not None:
        from thalweg.race.ray_executor import RayExecutor

        return RayExecutor(spec, conditions, ray, workers, threads)
    if workers == 0:
        return SerialExecutor(make_runner(spec, conditions, threads))
    return LocalExecutor(spec, conditions, workers, threads)
