"""Runs what a plan still lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thalweg.race.execute import Executor, Progress
from thalweg.race.job import Job
from thalweg.race.plan import Plan
from thalweg.race.progress import Listener
from thalweg.race.records import Run
from thalweg.race.tuning import best_trial

_POLL = 1.0

Key = tuple[str, str, int]


class Conductor:
    """Decides which run comes next, and keeps what is finished.

    All tuning comes before fresh runs; a recipe whose tuning is over may start its fresh runs while others still tune,
    so that no worker waits.

    Args:
        plan: the race.
        done: runs that are finished already; a run is never done twice.
        keep: stores a finished run.
        listener: is told what happens.
    """

    def __init__(self, plan: Plan, done: list[Run], keep: Callable[[Run], None], listener: Listener) -> None:
        self.plan = plan
        self.runs: dict[Key, Run] = {_key(run): run for run in done}
        self._started: set[Key] = set(self.runs)
        self._keep, self._listener = keep, listener
        self._tuning = plan.tuning_jobs()

    @property
    def left(self) -> int:
        """Runs that are not finished."""
        return self.plan.total - len(self.runs)

    def chosen(self) -> dict[str, dict[str, Any]]:
        """The best settings of every recipe whose tuning is over."""
        plan, best = self.plan, {}
        for recipe in plan.recipes:
            trials = len(plan.settings[recipe])
            runs = [run for run in self.runs.values() if run.recipe == recipe and run.phase == "tune"]
            if len(runs) == trials * plan.tuning_seeds:
                best[recipe] = plan.settings[recipe][best_trial(runs, trials, plan.goal)]
        return best

    def run(self, executor: Executor) -> None:
        """Run everything that is left."""
        under_way = 0
        while self.left:
            while under_way < executor.slots and (job := self._next()) is not None:
                executor.submit(job)
                under_way += 1
            for event in executor.events(_POLL):
                if isinstance(event, Progress):
                    self._listener.running(event.job, event.share)
                else:
                    under_way -= 1
                    self._finish(event)

    def _next(self) -> Job | None:
        for job in self._tuning:
            if _key(job) not in self._started:
                self._started.add(_key(job))
                return job
        for job in self.plan.fresh_jobs(self.chosen()):
            if _key(job) not in self._started:
                self._started.add(_key(job))
                return job
        return None

    def _finish(self, run: Run) -> None:
        self._keep(run)
        self.runs[_key(run)] = run
        self._listener.finished(run)


def _key(item: Job | Run) -> Key:
    return item.recipe, item.phase, item.index
