"""The pools of real training runs that ``calibration.py`` draws races from.

AdamW on the task ``digits``, tuned as a race tunes it, then trained on many fresh seeds by the race's own trial runner;
and once more on the same seeds with a planted slowdown. For a budget in steps that is an AdamW whose ``step`` does nothing in 3 of
13 calls, so that it needs 1.3 times the steps for the same number of updates, on other batches and at another point of the
schedule. For a budget in seconds it is one that idles after every step for 0.3 of the time that a step takes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import median
from time import perf_counter
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


@method("slow_adamw", search=lookup("adamw").search, seam="optim")
class SlowAdamW(AdamW):
    """AdamW that idles, so that a training step takes :data:`SLOWDOWN` times as long, or somewhat more on a shared machine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taken: deque[float] = deque(maxlen=21)
        self._ended = math.nan

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update, then idle for a share of the time since the call before (the median: evaluations lie in between, too)."""
        loss = super().step(closure)
        if math.isfinite(self._ended):
            self._taken.append(perf_counter() - self._ended)
            until = perf_counter() + (SLOWDOWN - 1) * median(self._taken)
            while perf_counter() < until:
                pass
        self._ended = perf_counter()
        return loss


def train_one(job: Job, every: int | None = None, seconds: float | None = None) -> Run:
    """One run of the task ``digits``, evaluated after every ``every`` steps, or for ``seconds``, evaluated as a race does."""
    torch.set_num_threads(1)
    load_methods()
    task = load("digits")
    steps = task.steps if seconds is None else None
    return train(task, job, Conditions(steps=steps, seconds=seconds, eval_every=every, device="cpu"))


def tune() -> dict[str, Any]:
    """AdamW's settings for the task, found as a race finds them."""
    load_methods()
    settings = trial_settings(parse("adamw"), TRIALS)
    runs = [train_one(Job("adamw", "tune", i, TUNING_BASE, tried)) for i, tried in enumerate(settings)]
    return settings[best_trial(runs, TRIALS, load("digits").goal)]


def train_pool(settings: dict[str, Any], seeds: int, workers: int, seconds: float | None = None) -> list[Run]:
    """``seeds`` runs of AdamW and as many of its slowed copy on the same fresh seeds: evaluated at every step, or for ``seconds``."""
    slowed = "idling_adamw" if seconds is None else "slow_adamw"
    jobs = [
        Job(name, "fresh", number, FRESH_BASE + number, settings)
        for number in range(seeds)
        for name in ("adamw", slowed)
    ]
    how = partial(train_one, every=1 if seconds is None else None, seconds=seconds)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(how, jobs, chunksize=4))
