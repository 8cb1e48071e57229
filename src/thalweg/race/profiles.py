r"""Performance profiles and a score over several races, as AlgoPerf defines them (arXiv:2306.07179).

With :math:`t_{rw}` the time of recipe r to the target of race w, the median over its fresh seeds and infinite where the median run
never got there, and :math:`m_w` the shortest one of that race:

.. math::
    \rho_r(\tau) = \frac{1}{W} \big|\{w : t_{rw} \le \tau\, m_w\}\big|, \qquad
    B_r = \frac{1}{\tau_{\max} - 1} \int_1^{\tau_{\max}} \rho_r(\tau)\, d\tau, \qquad \tau_{\max} = 4

:math:`\rho_r` is the profile, the share of races in which a recipe is at most :math:`\tau` times slower than the best one; the score
:math:`B_r` lies between 0 and 1, and is 1 for a recipe that wins every race. Both depend on who else races: without a recipe that
wins everywhere, all others score higher.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thalweg.race.errors import RaceError
from thalweg.race.records import RaceResult, jsonable
from thalweg.race.time_to_target import passage

Against = Literal["steps", "seconds"]

TAU_MAX = 4.0
RESAMPLES = 2000
LEVEL = 0.95

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """One recipe over several races.

    Args:
        recipe: its name.
        ratios: by race: its time to the target over that of the best recipe there, infinite where it doesn't arrive.
        score: :math:`B_r`.
        score_ci: 95% of the scores when the races' seeds are drawn anew, the same for every recipe; ``None`` with one seed. It holds
            for these tasks: others may order the recipes otherwise.
    """

    recipe: str
    ratios: Mapping[str, float]
    score: float
    score_ci: tuple[float, float] | None = None

    def share(self, tau: float) -> float:
        """The share of races in which the recipe needs at most ``tau`` times what the best one needs.

        Example:
            >>> Profile("lion", {"digits": 1.0, "mnist5k": 2.5}, 0.75).share(2.0)
            0.5
        """
        return sum(ratio <= tau for ratio in self.ratios.values()) / len(self.ratios)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with null for what is infinite."""
        return jsonable(
            {"recipe": self.recipe, "score": self.score, "score_ci": self.score_ci, "ratios": dict(self.ratios)}
        )


def profiles(results: Sequence[RaceResult], against: Against = "steps", tau_max: float = TAU_MAX) -> list[Profile]:
    """The profiles of all recipes over several races, the highest score first.

    Args:
        results: finished races of the same recipes, each on another task or under other conditions.
        against: whether time is counted in optimizer steps or in seconds of training.
        tau_max: where the score's integral ends (4, as in AlgoPerf).

    Raises:
        RaceError: no race, a recipe that isn't in every race, or steps asked for where the clock ended runs before the target.
        ValueError: ``tau_max`` isn't above 1.

    Example:
        >>> import tempfile
        >>> from thalweg.race import race
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = race("digits", ["adamw", "lion"], trials=1, seeds=1, steps=20, workers=0, out=folder)
        >>> [profile.score for profile in profiles([result])][0]
        1.0
    """
    if not tau_max > 1:
        raise ValueError(f"tau_max must be above 1, not {tau_max!r}")
    recipes = _recipes(results)
    times = [_times(result, recipes, against) for result in results]
    names = _race_names(results)
    ratios = np.stack([_ratios(np.median(found, axis=1)) for found in times])
    drawn = _drawn_scores(times, tau_max) if all(found.shape[1] > 1 for found in times) else None
    made = []
    for place, recipe in enumerate(recipes):
        interval = None if drawn is None else _interval(drawn[:, place])
        own = dict(zip(names, map(float, ratios[:, place]), strict=True))
        made.append(Profile(recipe, own, float(_scores(ratios[:, place], tau_max)), interval))
    return sorted(made, key=lambda profile: -profile.score)


def _recipes(results: Sequence[RaceResult]) -> list[str]:
    """The recipes, which must be the same in all races."""
    if not results:
        raise RaceError("a profile needs at least one finished race")
    names = [row.name for row in results[0].recipes]
    for result in results[1:]:
        other = {row.name for row in result.recipes}
        if differing := sorted(other.symmetric_difference(names)):
            raise RaceError(
                f"a profile compares the same recipes on every task, but {', '.join(differing)} raced in only one of "
                f"{results[0].name!r} and {result.name!r}"
            )
    return names


def _race_names(results: Sequence[RaceResult]) -> list[str]:
    """The tasks' names; those of the races where a task comes twice."""
    tasks = [result.task for result in results]
    if len(set(tasks)) == len(tasks):
        return tasks
    names = [result.name for result in results]
    return names if len(set(names)) == len(names) else [f"{name} {i}" for i, name in enumerate(names, 1)]


def _times(result: RaceResult, recipes: Sequence[str], against: Against) -> _Array:
    """Time to the target by recipe and fresh seed, infinite where it wasn't reached."""
    rows = []
    for recipe in recipes:
        runs = sorted(result.runs_of(recipe, "fresh"), key=lambda run: run.seed)
        budget = max((run.steps[-1] for run in runs if run.steps), default=1)
        passed = [passage(run, [result.target], result.goal, budget) for run in runs]
        if against == "steps" and result.decides == "seconds" and not all(p.reached for p in passed):
            raise RaceError(
                f"race {result.name!r} had a budget in seconds, and the clock ended runs of {recipe!r} before the target, so "
                "nobody knows their steps: count seconds instead (--seconds)"
            )
        rows.append([(p.steps if against == "steps" else p.seconds)[-1] for p in passed])
    if len({len(row) for row in rows}) > 1 or not rows[0]:
        raise RaceError(f"the recipes of race {result.name!r} don't have the same number of fresh seeds, one or more")
    return np.array(rows)


def _ratios(times: _Array) -> _Array:
    """Times over the shortest of all recipes (the first axis); infinite where none arrives."""
    best = times.min(axis=0)
    safe = np.where(np.isfinite(best), best, 1.0)
    return np.where(np.isfinite(times) & np.isfinite(best), times / safe, math.inf)


def _scores(ratios: _Array, tau_max: float) -> Any:
    """The normalized area below the profile; races are the first axis. Its integral is exact: every race adds a step."""
    return (np.maximum(0.0, tau_max - ratios) / (tau_max - 1)).mean(axis=0)


def _drawn_scores(times: Sequence[_Array], tau_max: float) -> _Array:
    """Scores by draw and recipe; a draw takes seeds with replacement, the same ones for every recipe of a race."""
    rng = np.random.default_rng(0)
    ratios = []
    for found in times:
        seeds = found.shape[1]
        picked = found[:, rng.integers(seeds, size=(RESAMPLES, seeds))]
        ratios.append(_ratios(np.median(picked, axis=2)).T)
    return np.asarray(_scores(np.stack(ratios), tau_max))


def _interval(scores: _Array) -> tuple[float, float]:
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
