"""A run on several devices: one process a device, which train together through a torch process group."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from thalweg.race.errors import RaceError, WorkerDied
from thalweg.race.job import Conditions, Job
from thalweg.race.process import Child, wait_any
from thalweg.race.records import Run
from thalweg.race.spec import TaskSpec
from thalweg.race.worker import InProcess
from thalweg.tasks.task import TaskError


class RankRunner:
    """Runs jobs on a group of rank processes that lives from run to run, and is made anew after a failure.

    A rank that fails leaves the others waiting in a collective operation, so that the whole group goes.
    """

    def __init__(self, spec: TaskSpec, conditions: Conditions, threads: int) -> None:
        task = spec.load()
        # Without workers the spec holds the task for this process; ranks are others, which load it themselves.
        self._start = (spec.pickled(task), conditions, max(1, threads // conditions.devices))
        self._ranks: list[Child] = []
        batch_size = task.batch_size
        if batch_size % conditions.devices:
            raise TaskError(
                f"batch_size {batch_size} can't be divided among {conditions.devices} devices; choose a multiple of it"
            )

    def run(self, job: Job, report: Callable[[float], None]) -> Run:
        """Train once on all devices; the record is rank 0's, or the first failing rank's."""
        if not self._ranks:
            self._launch()
        for rank in self._ranks:
            rank.send(job)
        try:
            runs = self._collect(report)
        except BaseException:
            self.close()
            raise
        failed = [run for run in runs.values() if run.outcome in ("raised", "out_of_memory")]
        if failed:
            self.close()
        return failed[0] if failed else runs[0]

    def close(self) -> None:
        """End the rank processes."""
        for rank in self._ranks:
            rank.kill()
        self._ranks = []

    def _launch(self) -> None:
        port, world = _free_port(), self._start[1].devices
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
        threads = {"OMP_NUM_THREADS": str(self._start[2])}
        for rank in range(world):
            place = {"LOCAL_RANK": str(rank), "RANK": str(rank), "NODE_RANK": "0"}
            self._ranks.append(Child(rank_main, self._start, {**address, **place, **threads}))

    def _collect(self, report: Callable[[float], None]) -> dict[int, Run]:
        """Every rank's record; without the others' as soon as one has failed."""
        runs: dict[int, Run] = {}
        while len(runs) < len(self._ranks):
            wait_any([rank for number, rank in enumerate(self._ranks) if number not in runs], 5)
            for number, rank in enumerate(self._ranks):
                message = rank.receive()
                if message is None:
                    if number not in runs and not rank.alive:
                        raise WorkerDied(*rank.death())
                    continue
                kind, value = message
                if kind == "failed":
                    raise RaceError(value)
                if kind == "progress" and number == 0:
                    report(value)
                if kind == "done":
                    runs[number] = Run.from_json(value)
                    if runs[number].outcome in ("raised", "out_of_memory"):
                        return runs
        return runs


def rank_main(connection: Connection, spec: TaskSpec, conditions: Conditions, threads: int) -> None:
    """Entry of one rank."""
    from thalweg.race.outcome import one_line

    try:
        runner: Any = InProcess(spec, conditions, threads)
    except Exception as error:
        connection.send(("failed", one_line(str(error))))
        return
    while True:
        try:
            job = connection.recv()
        except EOFError:
            os._exit(0)
        run = runner.run(job, lambda share: connection.send(("progress", share)))
        connection.send(("done", run.to_json()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
