"""What a race tells about itself while it runs."""

from __future__ import annotations

import sys
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from thalweg.race.job import Job
from thalweg.race.plan import Plan
from thalweg.race.records import Run


class Listener(Protocol):
    """Is told what happens in a race."""

    def started(self, name: str, plan: Plan, done: list[Run]) -> None:
        """The race starts or goes on; ``done`` runs are there already."""

    def running(self, job: Job, share: float) -> None:
        """A run has used this share of its budget."""

    def finished(self, run: Run) -> None:
        """A run is over and stored."""

    def stopped(self) -> None:
        """The race is over, or was stopped."""


class Silent:
    """Says nothing."""

    def started(self, name: str, plan: Plan, done: list[Run]) -> None:
        """Nothing."""

    def running(self, job: Job, share: float) -> None:
        """Nothing."""

    def finished(self, run: Run) -> None:
        """Nothing."""

    def stopped(self) -> None:
        """Nothing."""


class Bars:
    """One progress bar a recipe and one for the race with the remaining time, on standard error.

    Where that is not a terminal, a line at every tenth of the race instead.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars: Progress | None = None
        self._ids: dict[str, TaskID] = {}
        self._all: TaskID | None = None
        self._shares: dict[tuple[str, str, int], float] = {}
        self._lines = Lines()
        self._name, self._kept, self._total = "", 0, 0

    def started(self, name: str, plan: Plan, done: list[Run]) -> None:
        """Draw the bars."""
        self._name, self._kept, self._total = name, len(done), plan.total
        if not self._console.is_terminal:
            self._lines.started(name, plan, done)
            return
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
            expand=True,
        )
        for recipe in plan.recipes:
            total = len(plan.settings[recipe]) * plan.tuning_seeds + plan.seeds
            finished = sum(run.recipe == recipe for run in done)
            self._ids[recipe] = self._bars.add_task(_escaped(recipe), total=total, completed=finished, note="")
        self._all = self._bars.add_task(f"[bold]{_escaped(name)}", total=plan.total, completed=len(done), note="runs")
        self._bars.start()

    def running(self, job: Job, share: float) -> None:
        """Move a bar by a part of a run."""
        if self._bars is None:
            return
        key = (job.recipe, job.phase, job.index)
        self._advance(job.recipe, share - self._shares.get(key, 0.0))
        self._shares[key] = share

    def finished(self, run: Run) -> None:
        """Count a run."""
        self._kept += 1
        if self._bars is None:
            self._lines.finished(run)
            return
        self._advance(run.recipe, 1 - self._shares.pop((run.recipe, run.phase, run.index), 0.0))
        note = {"tune": "tuning", "fresh": "fresh seeds"}[run.phase]
        self._bars.update(
            self._ids[run.recipe], note=note if run.outcome == "finished" else run.outcome.replace("_", " ")
        )

    def stopped(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()

    def farewell(self, place: str) -> str:
        """What to say when the race was stopped; ``place`` is what ``--resume`` needs besides the name."""
        if not self._name:
            return "stopped before the first run"
        kept = f"{self._kept} of {self._total} runs are kept"
        return f"stopped; {kept}. Go on with: thalweg race --resume --name {self._name}{place}"

    def _advance(self, recipe: str, by: float) -> None:
        assert self._bars is not None and self._all is not None
        self._bars.advance(self._ids[recipe], by)
        self._bars.advance(self._all, by)


class Lines:
    """A line at every tenth of the race, on standard error."""

    def __init__(self) -> None:
        self._total = self._done = self._said = 0
        self._fresh_start = 0
        self._since = time.monotonic()

    def started(self, name: str, plan: Plan, done: list[Run]) -> None:
        """Say what starts."""
        self._total, self._done, self._since = plan.total, len(done), time.monotonic()
        self._fresh_start = self._done
        self._said = 10 * self._done // max(1, self._total)
        _say(f"race {name}: {len(plan.recipes)} recipes, {self._total} runs, {self._done} of them done")

    def running(self, job: Job, share: float) -> None:
        """Nothing between runs."""

    def finished(self, run: Run) -> None:
        """Say how far the race is."""
        self._done += 1
        if run.outcome != "finished":
            _say(f"{run.recipe}, {run.phase} run {run.index}: {run.outcome.replace('_', ' ')}: {run.message}")
        tenth = 10 * self._done // self._total
        if tenth > self._said:
            self._said = tenth
            spent = time.monotonic() - self._since
            left = spent / (self._done - self._fresh_start) * (self._total - self._done)
            _say(f"{self._done} of {self._total} runs done, about {left:.0f} s left")

    def stopped(self) -> None:
        """Nothing."""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _escaped(text: Any) -> str:
    from rich.markup import escape

    return escape(str(text))
