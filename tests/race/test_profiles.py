"""Performance profiles: AlgoPerf's definitions on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from thalweg.race.errors import RaceError
from thalweg.race.profiles import Profile, profiles
from thalweg.race.records import RaceResult, RecipeResult, Run


def result(task, times, name="race", seeds=1, pace=0.5):
    """A race in which every run falls in a straight line from 1 to 0 in ``times[recipe]`` steps; the target is 0, the budget 100."""
    runs = []
    for recipe, given in times.items():
        for seed in range(seeds):
            steps = given[seed] if isinstance(given, list) else given
            metric = [1.0, 0.0, 0.0] if steps <= 100 else [1.0, 0.9, 0.8]
            seen = [0, steps, 100] if steps < 100 else [0, 50, 100]
            if steps == 100:
                metric, seen = [1.0, 0.5, 0.0], [0, 50, 100]
            seconds = [step * (pace if recipe == "cheap" else 1.0) for step in seen]
            runs.append(Run(recipe, "fresh", seed, seed, {}, steps=seen, seconds=seconds, metric=metric))
    rows = [RecipeResult(recipe, {}, 1, seeds) for recipe in times]
    baseline = next(iter(times))
    return RaceResult(name, task, "loss", "min", baseline, 0.0, "given", {"steps": 100}, rows, runs, {})


def by_name(found):
    return {profile.recipe: profile for profile in found}


def test_scores_by_hand():
    races = [result("a", {"x": 20, "y": 40, "z": 90}), result("b", {"x": 60, "y": 30, "z": math.inf})]
    found = by_name(profiles(races))
    # x: ratios 1 and 2, area (3 + 2) / 2 / 3; y: 2 and 1, the same; z: 4.5 and never.
    assert found["x"].ratios == pytest.approx({"a": 1, "b": 2})
    assert found["x"].score == found["y"].score == pytest.approx(5 / 6)
    assert found["z"].score == 0 and found["z"].ratios["b"] == math.inf
    assert [found["y"].share(tau) for tau in (1, 1.99, 2, 4)] == [0.5, 0.5, 1, 1]


def test_the_score_is_the_area_below_the_profile():
    races = [result(task, {"x": 20, "y": y}) for task, y in (("a", 30), ("b", 55), ("c", 81), ("d", 19))]
    y = by_name(profiles(races, tau_max=3.5))["y"]
    taus = [1 + 2.5 * (i + 0.5) / 20_000 for i in range(20_000)]
    assert y.score == pytest.approx(sum(map(y.share, taus)) / len(taus), abs=1e-4)


def test_the_median_over_seeds_decides_and_the_interval_spans_the_score():
    found = by_name(profiles([result("a", {"x": [20, 20, 20], "y": [10, 30, 90]}, seeds=3)]))
    assert found["y"].ratios["a"] == pytest.approx(1.5)
    low, high = found["y"].score_ci
    assert low < found["y"].score < high
    assert found["x"].score == 1 and found["x"].score_ci[1] == 1


def test_seconds_may_tell_another_story():
    races = [result("a", {"x": 40, "cheap": 60})]
    assert [p.recipe for p in profiles(races)] == ["x", "cheap"]
    seconds = profiles(races, "seconds")
    assert [p.recipe for p in seconds] == ["cheap", "x"] and seconds[1].ratios["a"] == pytest.approx(40 / 30)


def test_a_race_that_nobody_finishes_counts_for_none():
    races = [result("a", {"x": 20, "y": 20}), result("b", {"x": math.inf, "y": math.inf})]
    assert {p.score for p in profiles(races)} == {0.5}


def test_diverged_runs_never_arrive():
    race = result("a", {"x": 20, "y": 10})
    race.runs[1].outcome = "diverged"
    assert by_name(profiles([race]))["y"].ratios["a"] == math.inf


def test_races_of_one_task_go_by_their_names():
    races = [result("a", {"x": 20}, "short"), result("a", {"x": 20}, "long")]
    assert set(profiles(races)[0].ratios) == {"short", "long"}
    assert set(profiles([races[0], races[0]])[0].ratios) == {"short 1", "short 2"}


def test_it_refuses_what_can_not_be_compared():
    with pytest.raises(RaceError, match="at least one finished race"):
        profiles([])
    with pytest.raises(RaceError, match="but y raced in only one of 'race' and 'race'"):
        profiles([result("a", {"x": 20, "y": 20}), result("b", {"x": 20})])
    with pytest.raises(ValueError, match="tau_max must be above 1"):
        profiles([result("a", {"x": 20})], tau_max=1.0)
    uneven = result("a", {"x": [20, 30], "y": [20, 30]}, seeds=2)
    uneven.runs.pop()
    with pytest.raises(RaceError, match="same number of fresh seeds"):
        profiles([uneven])


def test_json_has_no_infinity():
    assert Profile("x", {"a": math.inf}, 0.0).to_json() == {
        "recipe": "x", "score": 0.0, "score_ci": None, "ratios": {"a": None},
    }  # fmt: skip
