"""The pool of real training runs that ``calibration.py`` draws races from.

AdamW on the task ``digits``, tuned as a race tunes it, then trained on many fresh seeds by the race's own trial runner;
and once more on the same seeds with a planted slowdown: an AdamW whose ``step`` does nothing in 3 of 13 calls, so that it
needs 1.3 times the steps for the same number of updates, on other batches and at another point of the schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from thalweg.optim import AdamW
from thalweg.race.job import Conditions, Job
from thalweg.race.plan import FRESH_BASE, TUNING_BASE
from thalweg.race.recipe import load_methods, parse
from thalweg.race.records import Run
from thalweg.race.trial import train
from thalweg.race.tuning import best_trial, trial_settings
from thalweg.registry import lookup, method
from thalweg.tasks import load

SLOWDOWN = 1.3
TRIALS = 8


@method("idling_adamw", search=lookup("adamw").search, seam="optim")
class IdlingAdamW(AdamW):
    """AdamW that needs :data:`SLOWDOWN` times the steps."""

    calls = 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update in all but 3 of 13 calls."""
        self.calls += 1
        return super().step(closure) if int(self.calls / SLOWDOWN) > int((self.calls - 1) / SLOWDOWN) else None


def train_one(job: Job, every: int | None = None) -> Run:
    """One run of the task ``digits``, evaluated after every ``every`` steps."""
    torch.set_num_threads(1)
    load_methods()
    task = load("digits")
    return train(task, job, Conditions(steps=task.steps, eval_every=every, device="cpu"))


def tune() -> dict[str, Any]:
    """AdamW's settings for the task, found as a race finds them."""
    load_methods()
    settings = trial_settings(parse("adamw"), TRIALS)
    runs = [train_one(Job("adamw", "tune", i, TUNING_BASE, tried)) for i, tried in enumerate(settings)]
    return settings[best_trial(runs, TRIALS, load("digits").goal)]


def train_pool(seeds: int, workers: int) -> list[Run]:
    """``seeds`` runs of tuned AdamW and as many of its slowed copy on the same fresh seeds, evaluated at every step."""
    settings = tune()
    jobs = [
        Job(name, "fresh", number, FRESH_BASE + number, settings)
        for number in range(seeds)
        for name in ("adamw", "idling_adamw")
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(train_one, jobs, [1] * len(jobs), chunksize=4))
