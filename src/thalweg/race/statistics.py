"""What a race's runs show: ratios of time to target with intervals, and the words that follow from them.

Every recipe is compared with the baseline seed by seed. The log ratios of a recipe (:mod:`thalweg.race.time_to_target`),
one a seed, give

.. math:: \\bar d \\pm t_{n-1}(1 - \\alpha / 2)\\, \\max(s, s_0) / \\sqrt n, \\qquad s_0 = 0.05

and their exponentials the ratio and its interval. ``s`` is their standard deviation; the floor :math:`s_0` keeps three or
five seeds that happen to agree closely from showing a difference that isn't there.

A word is *faster* if the interval of the **steps** ratio lies below 1, *slower* if it lies above, else *no difference
shown*; with fewer than 3 pairs no word is given. The ratio of seconds stands beside it, with an interval of the same level.
Where the budget is in seconds, the word comes from the **seconds** ratio instead, and so do Holm's p values: there is no whole
budget in steps there, since each recipe takes as many as the clock lets it. The steps ratio then stands beside it only where
every run of both sides got to the target, so that nothing has to be made up.

The level is Holm's: the recipe with the smallest p value of ``k`` gets :math:`\\alpha = 0.05 / k`, the next
:math:`0.05 / (k - 1)`, and so on while they differ from 1; all others get the first level that showed no difference. So a
word and the interval beside it never contradict each other, each interval has a level of at least 95%, and the nominal chance
of any wrong *faster* or *slower* in a race of equal recipes is 5%. With one recipe the interval is a plain 95% interval.

A recipe of which no fresh run finished is called *failed*. *No comparison* stands where there is nothing to compare with: no fresh
run of the baseline finished, or the target is met before the first step. :attr:`RecipeResult.reason` says which.

How often the words are wrong, and how often they find a planted slowdown, is measured by ``benchmarks/calibration.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy import stats

from thalweg.race.records import Goal, RecipeResult, Run, Verdict
from thalweg.race.time_to_target import (
    SLACK,
    Passage,
    default_target,
    log_ratios,
    marks,
    no_target,
    passage,
    start_value,
)

ALPHA = 0.05
FEWEST_SEEDS = 3
SPREAD_FLOOR = 0.05
"""Smallest standard deviation between seeds, of log ratios, that is believed."""
LITTLE = 0.1
"""Where the default target is less than this share of the median baseline run's way from the start, that is said."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Log ratios of one recipe to the baseline, one for each seed that says something.

    Args:
        steps: of steps; empty where the clock ended a run before the target.
        seconds: of seconds.
        timed: whether the budget is in seconds, so that seconds decide.
        silent: pairs in which neither run got to the target.
        cut: runs of both sides that the clock ended before the target; counted where the budget is in seconds.
        broken: runs of both sides that did not finish; counted there too.
    """

    steps: list[float]
    seconds: list[float]
    timed: bool = False
    silent: int = 0
    cut: int = 0
    broken: int = 0

    @property
    def deciding(self) -> list[float]:
        """The log ratios that the word comes from."""
        return self.seconds if self.timed else self.steps

    @property
    def judged(self) -> bool:
        """Whether there are enough pairs for a word."""
        return len(self.deciding) >= FEWEST_SEEDS

    def p_value(self) -> float:
        """Two-sided p value of the deciding ratio being 1."""
        mean, error = mean_and_error(self.deciding, SPREAD_FLOOR)
        return float(2 * stats.t.sf(abs(mean) / error, len(self.deciding) - 1))

    def reason(self) -> str:
        """What is missing, in words; empty if nothing is."""
        if not self.judged and self.silent:
            return f"neither it nor the baseline reached the target on {_count(self.silent, 'seed')}"
        if self.cut:
            return f"no ratio of steps, for the clock ended {_count(self.cut, 'run')} before the target"
        return f"no ratio of steps, for {_count(self.broken, 'run')} did not finish" if self.broken else ""


def conclude(
    runs: Sequence[Run],
    recipes: Sequence[str],
    baseline: str,
    goal: Goal,
    target: float | None,
    budget_steps: int | None,
    budget_seconds: float | None = None,
) -> tuple[float, str, list[RecipeResult]]:
    """Compare recipes with the baseline over the runs of a race.

    Args:
        runs: the race's runs in any order. Conclusions use those of phase ``"fresh"``; the others only count trials.
        recipes: names of the rows, the baseline's among them.
        baseline: what the others are compared with.
        goal: whether the metric should go down or up.
        target: metric value that counts as done; ``None``: what every finished fresh run of the baseline reaches.
        budget_steps: optimizer steps of a whole run; ``None`` if the budget is in seconds, which then decide.
        budget_seconds: seconds of a whole run, where the budget is in seconds; those of the longest fresh run if left out.

    Returns:
        The target (NaN if there is none), the rule behind it in words, and one row a recipe in the order of ``recipes``.

    Example:
        >>> def run(recipe, seed, slow):
        ...     steps = [slow * step for step in (0, 10, 20)]
        ...     return Run(recipe, "fresh", seed, seed, {}, steps=steps, seconds=steps, metric=[8.0, 2.0 + seed / 9, 1.0])
        >>> runs = [run(name, seed, slow) for name, slow in (("adamw", 2), ("new", 1)) for seed in range(4)]
        >>> target, rule, rows = conclude(runs, ["adamw", "new"], "adamw", "min", None, 40)
        >>> round(target, 2), [(row.name, row.verdict) for row in rows]
        (1.07, [('adamw', 'baseline'), ('new', 'faster')])
        >>> round(rows[1].steps_ratio, 3)
        0.5
    """
    fresh = {name: [r for r in runs if r.recipe == name and r.phase == "fresh"] for name in {*recipes, baseline}}
    usable = [r for r in fresh[baseline] if r.outcome == "finished" and any(map(math.isfinite, r.metric))]
    value, rule = _target(usable, baseline, goal, target)
    missing = _nothing_to_compare(usable, baseline, goal, value, target is not None)
    steps, seconds = _budget(fresh, budget_steps, budget_seconds)
    levels = marks(start_value(usable), value, goal) if usable else (value,)
    passages = {name: [passage(run, levels, goal, steps, seconds) for run in fresh[name]] for name in fresh}
    compared = {
        name: _compare(fresh[name], passages[name], fresh[baseline], passages[baseline], steps)
        for name in recipes
        if name != baseline and not missing
    }
    alphas = _holm_levels({name: c.p_value() for name, c in compared.items() if c.judged})
    rows = []
    for name in recipes:
        trials = {str(sorted(r.settings.items())) for r in runs if r.recipe == name and r.phase == "tune"}
        row = _measured(name, fresh[name], passages[name], len(trials))
        if fresh[name] and not any(run.outcome == "finished" for run in fresh[name]):
            row.verdict, row.reason = "failed", f"none of its {_count(len(fresh[name]), 'fresh run')} finished"
        elif name == baseline:
            row.verdict, row.reason = "baseline", missing
        elif missing:
            row.verdict, row.reason = "no comparison", missing
        else:
            _add_ratios(row, compared[name], alphas.get(name, ALPHA))
        rows.append(row)
    return value, rule, rows


def mean_and_error(values: Sequence[float], floor: float = 0.0) -> tuple[float, float]:
    """Mean of at least two values and its standard error, the standard deviation taken as at least ``floor``."""
    return float(np.mean(values)), max(float(np.std(values, ddof=1)), floor) / math.sqrt(len(values))


def t_interval(values: Sequence[float], alpha: float = ALPHA, floor: float = 0.0) -> Interval | None:
    """Student's interval of level ``1 - alpha`` for the mean of ``values``; ``None`` for fewer than two.

    Example:
        >>> low, high = t_interval([1.0, 2.0, 3.0])
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    if len(values) < 2:
        return None
    mean, error = mean_and_error(values, floor)
    half = float(stats.t.ppf(1 - alpha / 2, len(values) - 1)) * error
    return mean - half, mean + half


def _target(usable: Sequence[Run], baseline: str, goal: Goal, target: float | None) -> tuple[float, str]:
    if target is not None:
        note = "" if usable else f"; no fresh run of {baseline} finished, so there is nothing to compare with"
        return target, f"given{note}"
    if not usable:
        return math.nan, f"no fresh run of {baseline} finished, so there is no target and nothing to compare with"
    rule = (
        f"what every finished fresh run of {baseline} reaches: "
        f"their weakest best value, less {SLACK:.0%} of the improvement from the start"
    )
    value = default_target(usable, goal)
    return value, rule + _weak(usable, baseline, goal, value)


def _weak(usable: Sequence[Run], baseline: str, goal: Goal, target: float) -> str:
    """A warning where one run of the baseline sets a target that is only a little better than the start; else empty."""
    sign = 1 if goal == "min" else -1
    start, best = start_value(usable), {run.seed: run.best(goal) for run in usable}
    way, whole = sign * (start - target), sign * (start - median(best.values()))
    if not 0 < way < LITTLE * whole:
        return ""
    weakest = max(best, key=lambda seed: sign * best[seed])
    return f"; that is only {way / whole:.1%} of the way that its median run made, because of seed {weakest}"


def _nothing_to_compare(usable: Sequence[Run], baseline: str, goal: Goal, target: float, given: bool) -> str:
    """Why no recipe can be compared with the baseline; empty if it can."""
    if not usable:
        return f"no fresh run of {baseline} finished"
    return no_target(usable, target, goal, given)


def _budget(fresh: dict[str, list[Run]], steps: int | None, seconds: float | None) -> tuple[float, float]:
    """Steps and seconds of a whole run, the one that wasn't given NaN."""
    if steps:
        return float(steps), math.nan
    longest = max((r.seconds[-1] for runs in fresh.values() for r in runs if r.seconds), default=math.nan)
    return math.nan, float(seconds or longest)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _compare(
    mine: Sequence[Run], passed: Sequence[Passage], baseline: Sequence[Run], partners: Sequence[Passage], budget: float
) -> Comparison:
    """Pair the runs by seed, in the order of seeds."""
    by_seed = {run.seed: (run, found) for run, found in zip(baseline, partners, strict=True)}
    pairs = sorted(
        ((run.seed, run, found) for run, found in zip(mine, passed, strict=True) if run.seed in by_seed),
        key=lambda pair: pair[0],
    )
    logs = [log_ratios(found, by_seed[seed][1], budget) for seed, _, found in pairs]
    said = [found for found in logs if found is not None]
    steps, seconds = [steps for steps, _ in said], [seconds for _, seconds in said if math.isfinite(seconds)]
    silent = len(logs) - len(said)
    if not math.isnan(budget):
        return Comparison(steps, seconds, silent=silent)
    both = [side for seed, run, found in pairs for side in ((run, found), by_seed[seed])]
    missed = [run.outcome for run, found in both if not found.reached]
    cut = missed.count("finished")
    return Comparison([] if missed else steps, seconds, True, silent, cut, len(missed) - cut)


def _holm_levels(p_values: dict[str, float]) -> dict[str, float]:
    """The level at which each comparison's interval is drawn: Holm's step-down levels, see the module."""
    levels: dict[str, float] = {}
    left = len(p_values)
    for name, p in sorted(p_values.items(), key=lambda item: item[1]):
        levels[name] = ALPHA / left
        if p < ALPHA / left and left > 1:
            left -= 1
    return levels


def _add_ratios(row: RecipeResult, found: Comparison, alpha: float) -> None:
    row.steps_ratio, row.steps_ratio_ci = _ratio(found.steps, alpha)
    row.seconds_ratio, row.seconds_ratio_ci = _ratio(found.seconds, alpha)
    deciding = row.seconds_ratio_ci if found.timed else row.steps_ratio_ci
    row.verdict = _word(deciding) if found.judged else "too few seeds"
    row.reason = found.reason()


def _ratio(logs: Sequence[float], alpha: float) -> tuple[float | None, Interval | None]:
    if not logs:
        return None, None
    interval = t_interval(logs, alpha, SPREAD_FLOOR)
    return math.exp(float(np.mean(logs))), (math.exp(interval[0]), math.exp(interval[1])) if interval else None


def _word(interval: Interval | None) -> Verdict:
    if interval is not None and interval[1] < 1:
        return "faster"
    if interval is not None and interval[0] > 1:
        return "slower"
    return "no difference shown"


def _measured(name: str, fresh: Sequence[Run], passages: Sequence[Passage], trials: int) -> RecipeResult:
    """A row without its comparison: what the fresh runs measured."""
    ordered = sorted(fresh, key=lambda run: run.index)
    final = [r.metric[-1] for r in ordered if r.outcome == "finished" and r.metric and math.isfinite(r.metric[-1])]
    return RecipeResult(
        name=name,
        settings=dict(ordered[0].settings) if ordered else {},
        trials=trials,
        seeds=len({run.seed for run in fresh}),
        steps_to_target=_finite(p.steps[-1] for p in passages),
        seconds_to_target=_finite(p.seconds[-1] for p in passages),
        reached=sum(p.reached for p in passages),
        final=float(np.mean(final)) if final else None,
        final_ci=t_interval(final),
        step_seconds=_finite(r.step_seconds for r in fresh if math.isfinite(r.step_seconds)),
        peak_memory_bytes=int(median([r.peak_memory_bytes for r in fresh] or [0])),
        state_bytes=int(median([r.state_bytes for r in fresh] or [0])),
        diverged=sum(r.outcome == "diverged" for r in fresh),
        failed=sum(r.outcome not in ("finished", "diverged") for r in fresh),
    )


def _finite(values: Iterable[float]) -> float | None:
    """Median of ``values``; ``None`` if there is none or the median is infinite."""
    numbers = list(values)
    middle = median(numbers) if numbers else math.inf
    return float(middle) if math.isfinite(middle) else None
