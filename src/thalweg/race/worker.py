"""The process that trains: it loads the task once, then runs one job after the other."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from thalweg.race.job import Conditions, Job
from thalweg.race.records import Run
from thalweg.race.spec import TaskSpec

Message = tuple[str, Any]
"""``("ready", None)``, ``("failed", line)``, ``("progress", share)``, ``("done", run)`` or ``("died", line)``."""


class Runner(Protocol):
    """Runs jobs in this process, or in processes below it."""

    def run(self, job: Job, report: Callable[[float], None]) -> Run:
        """Train once. Raises :class:`~thalweg.race.errors.WorkerDied` if a process below this one died."""

    def close(self) -> None:
        """End the processes below this one."""


def make_runner(spec: TaskSpec, conditions: Conditions, threads: int) -> Runner:
    """The runner that the conditions ask for; a :class:`~thalweg.tasks.task.TaskError` if the task can't be loaded."""
    if conditions.distributed:
        from thalweg.race.ranks import RankRunner

        return RankRunner(spec, conditions, threads)
    return InProcess(spec, conditions, threads)


class InProcess:
    """Trains in this process."""

    def __init__(self, spec: TaskSpec, conditions: Conditions, threads: int) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        self._task = spec.load()
        self._conditions = conditions

    def run(self, job: Job, report: Callable[[float], None]) -> Run:
        """Train once."""
        from thalweg.race.trial import train

        return train(self._task, job, self._conditions, report)

    def close(self) -> None:
        """Nothing to end."""


def main(connection: Connection, spec: TaskSpec, conditions: Conditions, threads: int) -> None:
    """Entry of a worker process: say ``ready``, then answer every job until the pipe closes."""
    from thalweg.race.errors import WorkerDied
    from thalweg.race.outcome import one_line
    from thalweg.tasks.task import TaskError

    try:
        runner = make_runner(spec, conditions, threads)
    except TaskError as error:
        connection.send(("failed", str(error)))
        return
    except (Exception, SystemExit) as error:
        connection.send(("failed", f"a worker can't start: {type(error).__name__}: {one_line(str(error))}"))
        return
    connection.send(("ready", None))
    settled = False
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            run = runner.run(job, lambda share: connection.send(("progress", share)))
        except WorkerDied as death:
            connection.send(("died", str(death)))
            os._exit(1)
        connection.send(("done", run.to_json()))
        if not settled:
            # Everything imported by now stays: leaving it out of every later collection saves a third of a second a run.
            gc.collect()
            gc.freeze()
            settled = True
