import math
from itertools import pairwise

import pytest

from thalweg.race import recipe as recipes
from thalweg.race.records import Run
from thalweg.race.tuning import best_trial, edges, even_points, score, sobol_points, trial_settings

recipes.load_methods()
SPACE = {
    "lr": ("log", 1e-4, 1e-1),
    "momentum": ("linear", 0.5, 1.0),
    "rank": ("int", 1, 9),
    "rule": ("choice", "a", "b"),
}


def run(index, metric, outcome="finished"):
    return Run("adamw", "tune", index, 1, {}, outcome, steps=[0] * len(metric), metric=metric)


def test_the_default_comes_first():
    recipe = recipes.parse("adamw")
    settings = trial_settings(recipe, 5)
    assert len(settings) == 5
    assert settings[0] == {"lr": 1e-3, "weight_decay": 0.01}


def test_points_depend_on_space_seed_and_number_only():
    few, many = sobol_points(SPACE, 3, seed=4), sobol_points(SPACE, 20, seed=4)
    assert many[:3] == few
    assert sobol_points(dict(reversed(SPACE.items())), 20, seed=4) == many
    assert sobol_points(SPACE, 20, seed=5) != many


def test_points_fill_the_space_evenly():
    points = sobol_points(SPACE, 64)
    assert all(1e-4 <= p["lr"] <= 1e-1 and 0.5 <= p["momentum"] <= 1 and 1 <= p["rank"] <= 9 for p in points)
    # Each quarter of a coordinate holds a quarter of a low-discrepancy sequence, on the scale that the space names.
    quarters = [int((math.log10(p["lr"]) + 4) / 3 * 4) for p in points]
    assert [quarters.count(q) for q in range(4)] == pytest.approx([16] * 4, abs=1)
    assert 26 <= sum(p["rule"] == "a" for p in points) <= 38


def test_recipes_with_the_same_space_try_the_same_points():
    fixed = trial_settings(recipes.parse("adamw(betas=(0.9, 0.95))"), 6)
    assert fixed == trial_settings(recipes.parse("adamw"), 6)


def test_a_single_number_is_tried_at_even_distances():
    default, *others = trial_settings(recipes.parse("adamw(lr=log(1e-4, 0.1), weight_decay=0.0)"), 10)
    rates = [settings["lr"] for settings in others]
    assert default == {"lr": 1e-3}
    assert [b / a for a, b in pairwise(rates)] == pytest.approx([10 ** (1 / 3)] * 8)
    assert rates[0] / 1e-4 == pytest.approx(0.1 / rates[-1])
    assert [p["rank"] for p in even_points({"rank": ("int", 2, 10)}, 4)] == [3, 5, 7, 9]
    assert even_points({"x": ("linear", 0.0, 1.0)}, 2) == [{"x": 0.25}, {"x": 0.75}]
    assert (
        len(trial_settings(recipes.parse("lion_k(lr=0.1, threshold=0.1, weight_decay=0.0)"), 6)) == 6
    )  # a choice is left


def test_nothing_to_tune_is_one_trial():
    assert trial_settings(recipes.parse("adamw(lr=0.1, weight_decay=0.0)"), 6) == [{}]


def test_failed_runs_are_worse_than_any_other():
    bad = run(0, [0.9, 0.99], "diverged")
    assert score(bad, "max") == -math.inf
    assert score(bad, "min") == math.inf
    assert best_trial([bad, run(1, [0.1, 0.2])], 2, "max") == 1


def test_the_best_mean_over_tuning_seeds_wins_and_ties_go_to_the_earlier():
    runs = [run(0, [0.5]), run(1, [0.7]), run(2, [0.6]), run(3, [0.6])]
    assert best_trial(runs, 2, "max") == 0
    assert best_trial(runs[::-1], 2, "min") == 0
    runs[3].metric = [0.61]
    assert best_trial(runs, 2, "max") == 1
    assert best_trial(runs, 2, "min") == 0


def test_all_failed_leaves_the_published_default():
    assert best_trial([run(i, [], "raised") for i in range(3)], 3, "max") == 0


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"lr": 1.5e-4}, ["lr"]),
        ({"lr": 3e-4}, []),
        ({"lr": 9e-2, "momentum": 0.96}, ["lr", "momentum"]),
        ({"lr": 0.0}, ["lr"]),
        ({"lr": 1.0}, ["lr"]),
        ({"rule": "a", "rank": 5, "unknown": 1}, []),
    ],
)
def test_edges(settings, found):
    assert edges(settings, SPACE) == found
