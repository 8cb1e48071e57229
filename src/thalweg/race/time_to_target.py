"""How long a run takes to a target, and how two runs on the same seed compare on the way there.

The time at which one noisy curve first crosses one value is a poor measure of speed: near its end a validation curve is
flat, so the crossing is mostly luck, and five pairs of seeds found a slowdown of 30% in 15 to 32% of the races
(``docs/comparison.md``). Two runs are therefore compared at several **marks**: where a half, a quarter, an eighth, ... of
the improvement from the start to the target is still missing, and at the target itself. Their ratio is the geometric mean
over the marks, so every halving of what is missing weighs the same, whatever the metric's unit.

Rules, each checked by ``benchmarks/calibration.py``:

- *Default target*: the weakest best value of the baseline's fresh runs, given back by :data:`SLACK` of the improvement
  from the start; nothing where there is no improvement.
  Without the slack one baseline run would cross exactly at its best point and a sixth of equally good
  runs (of 5 seeds) would never get there, while no baseline run could fail. For a single target that made 6.8% of the
  words between equals false, with a ratio of 1.02 on average; with the slack 4.7% and 1.00.
- *Crossings* are interpolated linearly between evaluations on the best value so far. Taking the first evaluation that is
  past a mark would add half an interval to both sides and pull every ratio towards 1; the best value so far is used
  because a target that was reached stays reached. Both sides are evaluated at the same steps, so noise that makes the
  best value optimistic is the same for both.
- *A run that never gets there* counts as needing the whole budget at every mark it missed, and its ratio is at least the
  budget over the partner's time to the target: it never counts as faster than a run that arrived.
- *A run that did not finish* (diverged, raised, ...) counts as having missed every mark.
- *Neither gets there*: the pair says nothing about the time to the target and is left out.
- *A target that a baseline run meets before its first step* says nothing about training: no pair is compared
  (:func:`no_target`).
- *A budget in seconds* has no whole budget in steps: a recipe with slower steps takes fewer of them before the clock ends the
  run, and how many it would have needed isn't known. There the seconds of the budget count for what was missed, and the ratio
  of steps is not a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thalweg.race.records import Goal, Run

SLACK = 0.01
"""Share of the improvement from the start to the weakest best value that the default target gives back."""

MISSING = (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 0.0)
"""What is still missing of the improvement from the start to the target at the marks; the last mark is the target."""


@dataclass(frozen=True)
class Passage:
    """When one run passed the marks: infinity where it never did.

    Args:
        steps: optimizer steps to each mark, at least 1; the last one is the target's.
        seconds: seconds of training to each mark.
        whole_seconds: seconds of the whole budget: given, or as far as this run tells; NaN if it tells nothing.
    """

    steps: tuple[float, ...]
    seconds: tuple[float, ...]
    whole_seconds: float

    @property
    def reached(self) -> bool:
        """Whether the run got to the target."""
        return math.isfinite(self.steps[-1])


def first_value(run: Run) -> float:
    """The first finite metric value of ``run``; NaN if there is none."""
    return next((m for m in run.metric if math.isfinite(m)), math.nan)


def start_value(runs: Sequence[Run]) -> float:
    """Median of the first finite metric values of ``runs``; NaN if there is none."""
    finite = [value for value in map(first_value, runs) if math.isfinite(value)]
    return float(np.median(finite)) if finite else math.nan


def default_target(baseline: Sequence[Run], goal: Goal) -> float:
    """What every run of ``baseline`` reaches: their weakest best value, less :data:`SLACK` of the improvement.

    Where the weakest best value is no better than the median start, there is no improvement to give back a part of.

    Args:
        baseline: finished runs, each with a finite metric value.
        goal: whether the metric should go down or up.

    Example:
        >>> runs = [Run("adamw", "fresh", i, i, {}, metric=[2.0, best]) for i, best in enumerate((0.9, 1.0))]
        >>> default_target(runs, "min")
        1.01
    """
    weakest = (max if goal == "min" else min)(run.best(goal) for run in baseline)
    improvement = start_value(baseline) - weakest
    return weakest + SLACK * (max(0.0, improvement) if goal == "min" else min(0.0, improvement))


def no_target(baseline: Sequence[Run], target: float, goal: Goal, given: bool) -> str:
    """Why nothing can be compared at ``target``: a run of the baseline meets it before the first step; else empty.

    Args:
        baseline: finished runs, each with a finite metric value.
        target: the target.
        goal: whether the metric should go down or up.
        given: whether somebody chose the target, so that it isn't the baseline's own doing.

    Example:
        >>> runs = [Run("adamw", "fresh", i, i, {}, metric=[2.0, best]) for i, best in enumerate((0.9, 2.1))]
        >>> no_target(runs, default_target(runs, "min"), "min", given=False)
        'the baseline did not improve on seed 1'
    """
    met = [run for run in baseline if _as_good(first_value(run), target, goal)]
    if not met:
        return ""
    if given:
        return f"the target is met before the first step on {_seeds(met)} of the baseline"
    stuck = [run for run in baseline if _as_good(first_value(run), run.best(goal), goal)]
    if stuck:
        return f"the baseline did not improve on {_seeds(stuck)}"
    return f"the baseline's weakest run ends no better than its start on {_seeds(met)}"


def _as_good(value: float, other: float, goal: Goal) -> bool:
    return value <= other if goal == "min" else value >= other


def _seeds(runs: Sequence[Run]) -> str:
    numbers = [str(seed) for seed in sorted({run.seed for run in runs})]
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {', '.join(numbers[:-1])} and {numbers[-1]}"


def marks(start: float, target: float, goal: Goal) -> tuple[float, ...]:
    """Metric values at which runs are compared, the target last; the target alone if the start is no worse than it.

    Example:
        >>> marks(32.0, 0.0, "min")
        (16.0, 8.0, 4.0, 2.0, 1.0, 0.0)
    """
    worse = start > target if goal == "min" else start < target
    return tuple(target + missing * (start - target) for missing in MISSING) if worse else (target,)


def passage(
    run: Run, values: Sequence[float], goal: Goal, budget_steps: float, budget_seconds: float = math.nan
) -> Passage:
    """When ``run`` passed the metric values ``values``, none of them if it did not finish.

    Args:
        run: a run.
        values: marks, from the easiest to the target.
        goal: whether the metric should go down or up.
        budget_steps: steps of the whole budget, for estimating its seconds where the run ended early.
        budget_seconds: seconds of the whole budget, where that was given in seconds; else NaN.
    """
    arrived = run.outcome == "finished"
    steps = tuple(steps_to(run, value, goal) if arrived else math.inf for value in values)
    seconds = tuple(_seconds_at(run, step) for step in steps)
    return Passage(steps, seconds, _whole_seconds(run, budget_steps, budget_seconds))


def steps_to(run: Run, value: float, goal: Goal) -> float:
    """Optimizer steps until the best metric value so far is as good as ``value``: linear between evaluations, at least 1.

    Returns:
        The number of steps, not rounded; infinity if the run never got there. Values that aren't finite are skipped.

    Example:
        >>> run = Run("adamw", "fresh", 0, 0, {}, steps=[0, 10, 20], metric=[1.0, 0.8, 0.4])
        >>> steps_to(run, 0.5, "min"), steps_to(run, 0.3, "min")
        (17.5, inf)
    """
    sign = 1.0 if goal == "min" else -1.0
    before_step, before = math.nan, math.inf
    for step, metric in zip(run.steps, run.metric, strict=True):
        now = sign * metric
        if not now < before:
            # no better: the best value so far stays, and interpolation starts from here
            before_step = step if math.isfinite(before) else before_step
            continue
        if now <= sign * value:
            share = (before - sign * value) / (before - now) if math.isfinite(before) else 1.0
            crossing = before_step + share * (step - before_step) if math.isfinite(before) else float(step)
            return max(1.0, crossing)
        before_step, before = step, now
    return math.inf


def log_ratios(run: Passage, partner: Passage, budget_steps: float) -> tuple[float, float] | None:
    """Log of the ratio of ``run`` to ``partner`` in steps and in seconds; exchanging the two changes the sign only.

    Args:
        run: a run of a recipe.
        partner: the baseline's run on the same seed.
        budget_steps: steps of the whole budget; NaN if it is in seconds.

    Returns:
        The two logs, each NaN where it can't be known: steps where the clock ended a run before the target, seconds where
        none were measured. ``None`` if neither run got to the target.
    """
    if not run.reached and not partner.reached:
        return None
    seconds = max((s for s in (run.whole_seconds, partner.whole_seconds) if math.isfinite(s)), default=math.nan)
    return (
        _log_ratio(run.steps, partner.steps, budget_steps),
        _log_ratio(run.seconds, partner.seconds, seconds),
    )


def _log_ratio(mine: Sequence[float], partners: Sequence[float], budget: float) -> float:
    """Mean log ratio over the marks, with the whole budget for what was missed; see the module's rules."""
    a, b = (np.where(np.isfinite(times), times, budget) for times in (mine, partners))
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (a > 0).all() and (b > 0).all()):
        return math.nan
    logs = np.log(a) - np.log(b)
    mean = float(logs.mean())
    if not math.isfinite(mine[-1]):
        return max(mean, float(logs[-1]), 0.0)
    if not math.isfinite(partners[-1]):
        return min(mean, float(logs[-1]), 0.0)
    return mean


def _seconds_at(run: Run, step: float) -> float:
    """Seconds of training at a step between evaluations; infinity if the step was never made."""
    return float(np.interp(step, run.steps, run.seconds)) if math.isfinite(step) else math.inf


def _whole_seconds(run: Run, budget_steps: float, budget_seconds: float) -> float:
    """Seconds that the whole budget takes this run: given, measured, or from its time for a step where it ended early."""
    measured = run.seconds[-1] if run.seconds else math.nan
    if math.isfinite(budget_seconds):
        return max(budget_seconds, measured) if math.isfinite(measured) else budget_seconds  # the last step may overrun
    estimate = run.step_seconds * budget_steps
    if run.outcome == "finished" or not estimate > measured:
        return measured if math.isfinite(measured) and measured > 0 else estimate
    return estimate
