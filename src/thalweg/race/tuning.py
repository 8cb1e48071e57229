"""Equal tuning for every recipe: the same number of settings, drawn from its declared search space, the same way.

Trial 0 is each method's published default. Trials 1 to n - 1 are the points of a scrambled Sobol sequence over the
search space, with the same sampler seed for all recipes. Where a single number is tuned they lie evenly over its range
instead: few random points of a line leave gaps. What is tried depends on the space, the seed and the number of trials
alone, so the race doesn't depend on how many workers it has, on their order, or on interruptions; and recipes with the
same space are tried at the same points. This is the external tuning of the AlgoPerf benchmark (arXiv:2306.07179):
quasi-random search with an equal number of trials. An adaptive sampler would spend its trials better, but by an amount
that depends on the order in which trials end.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from thalweg.race.recipe import Recipe
from thalweg.race.records import Goal, Run
from thalweg.registry import Space

EDGE = 0.1
"""Outer share of a searched range that counts as its edge."""


def trial_settings(recipe: Recipe, trials: int, seed: int = 0) -> list[dict[str, Any]]:
    """The settings that a recipe is tuned over.

    Args:
        recipe: what is tuned.
        trials: how many settings, the published default included; at least 1.
        seed: seed of the quasi-random sequence, the same for every recipe of a race.

    Returns:
        ``trials`` dictionaries; one only if the recipe has nothing to tune.
    """
    space = recipe.search_space()
    if not space:
        return [{}]
    drawn = even_points(space, trials - 1) if _single_number(space) else sobol_points(space, trials - 1, seed)
    return [recipe.defaults(), *drawn]


def even_points(space: Mapping[str, Space], count: int) -> list[dict[str, Any]]:
    """``count`` points in the middle of as many equal parts of the range of one number, from the lowest on.

    Whole numbers come twice where there are fewer of them than parts.

    Example:
        >>> [round(point["lr"], 6) for point in even_points({"lr": ("log", 1e-4, 1e-1)}, 3)]
        [0.000316, 0.003162, 0.031623]
    """
    ((key, (kind, low, high)),) = space.items()
    if kind == "log":
        low, high = math.log(low), math.log(high)
    values = [low + (high - low) * (part + 0.5) / count for part in range(count)]
    made = [math.exp(value) if kind == "log" else round(value) if kind == "int" else value for value in values]
    return [{key: value} for value in made]


def _single_number(space: Mapping[str, Space]) -> bool:
    return [kind != "choice" for kind, *_ in space.values()] == [True]


def sobol_points(space: Mapping[str, Space], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """``count`` quasi-random points of ``space`` in a fixed order."""
    if count < 1:
        return []
    spaces = {key: distribution(space[key]) for key in sorted(space)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
        )
    study = _quiet_study(sampler)
    # The sampler takes its space from the first trial of a study and draws that trial otherwise, so one is planted.
    middle = {key: _first(value) for key, value in spaces.items()}
    study.add_trial(optuna.trial.create_trial(params=middle, distributions=spaces, value=0.0))
    points = [study.ask(spaces).params for _ in range(count)]
    return [{key: point[key] for key in space} for point in points]


def distribution(space: Space) -> BaseDistribution:
    """Optuna's distribution of one declared space."""
    kind, *bounds = space
    if kind == "choice":
        return CategoricalDistribution(bounds)
    if kind == "int":
        return IntDistribution(bounds[0], bounds[1])
    return FloatDistribution(bounds[0], bounds[1], log=kind == "log")


def score(run: Run, goal: Goal) -> float:
    """What tuning selects on: the best metric within the budget; runs that did not finish are worse than others."""
    if run.outcome != "finished":
        return math.inf if goal == "min" else -math.inf
    return run.best(goal)


def best_trial(runs: Sequence[Run], trials: int, goal: Goal) -> int:
    """Number of the best trial: the best mean score over its tuning seeds, the earlier one among equals.

    Args:
        runs: tuning runs of one recipe; run ``index`` belongs to trial ``index // tuning_seeds``.
        trials: number of trials.
        goal: whether scores should go down or up.
    """
    seeds = max(1, len(runs) // trials)
    sign = 1.0 if goal == "min" else -1.0
    scores: list[list[float]] = [[] for _ in range(trials)]
    for run in runs:
        scores[run.index // seeds].append(sign * score(run, goal))
    means = [sum(values) / len(values) if values else math.inf for values in scores]
    return min(range(trials), key=lambda trial: (means[trial], trial))


def edges(settings: Mapping[str, Any], space: Mapping[str, Space]) -> list[str]:
    """Names of the settings whose value lies in the outer tenth of a numeric range, or beyond it."""
    return [key for key, value in settings.items() if key in space and _at_edge(value, space[key])]


def _quiet_study(sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """A study in memory, without the line that Optuna logs about it."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(sampler=sampler)
    finally:
        optuna.logging.set_verbosity(level)


def _at_edge(value: Any, space: Space) -> bool:
    kind, *bounds = space
    if kind == "choice" or not isinstance(value, int | float):
        return False
    low, high = bounds
    if kind == "log":
        if value <= 0:
            return True
        low, high, value = math.log(low), math.log(high), math.log(value)
    position = (value - low) / (high - low)
    return not EDGE <= position <= 1 - EDGE


def _first(distribution: BaseDistribution) -> Any:
    return distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low  # type: ignore[attr-defined]
