"""Runs that went wrong, equal ones together."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.race.records import RaceResult, Run
from thalweg.report.text import clean, count

_WORDS = {
    "diverged": "diverged",
    "out_of_memory": "ran out of memory",
    "raised": "raised an error",
    "killed": "was killed",
}


@dataclass(frozen=True)
class Failure:
    """Runs of one recipe and phase that ended the same way."""

    recipe: str
    phase: str
    outcome: str
    runs: str
    message: str


def failures(result: RaceResult) -> list[Failure]:
    """Every run that did not finish; fresh runs first, since they count."""
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in result.runs:
        if run.outcome != "finished":
            groups.setdefault((run.recipe, run.phase, run.outcome, run.message), []).append(run)
    rows = []
    for (recipe, phase, outcome, message), runs in sorted(groups.items(), key=lambda g: (g[0][1] != "fresh", g[0])):
        which = ", ".join(str(n) for n in sorted({run.seed if phase == "fresh" else run.index for run in runs})[:8])
        more = ", …" if len(runs) > 8 else ""
        what = ("seed" if phase == "fresh" else "number") + ("s" if len(runs) > 1 else "")
        where = f"{count(len(runs), 'run')} ({what} {which}{more})"
        rows.append(Failure(clean(recipe), phase, _WORDS.get(outcome, clean(outcome)), where, clean(message)))
    return rows
