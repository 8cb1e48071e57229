import json

import pytest

from thalweg.race.errors import RaceError
from thalweg.race.job import Conditions
from thalweg.race.plan import Plan


def plan(**changes):
    default = {
        "task": "tiny",
        "source": "/data/tiny.py",
        "fingerprint": "abc",
        "metric_name": "accuracy",
        "goal": "max",
        "recipes": ["adamw", "lion", "sgd(lr=0.1)"],
        "baseline": "adamw",
        "trials": 2,
        "tuning_seeds": 2,
        "seeds": 3,
        "seed": 0,
        "conditions": Conditions(steps=10),
        "spaces": {"adamw": {"lr": ("log", 1e-3, 1.0)}, "lion": {"rule": ("choice", "a", "b")}, "sgd(lr=0.1)": {}},
        "settings": {"adamw": [{"lr": 0.1}, {"lr": 0.2}], "lion": [{"rule": "a"}, {"rule": "b"}], "sgd(lr=0.1)": [{}]},
    }
    return Plan(**{**default, **changes})


def test_json_round_trip():
    assert Plan.from_json(json.loads(json.dumps(plan().to_json()))) == plan()


def test_jobs():
    jobs = plan().tuning_jobs()
    assert len(jobs) == 10
    assert [(j.recipe, j.index) for j in jobs if j.recipe == "lion"] == [("lion", i) for i in range(4)]
    assert {j.index: (j.settings["rule"], j.seed) for j in jobs if j.recipe == "lion"}[3] == (
        "b",
        plan().tuning_seed(1),
    )
    chosen = {"adamw": {"lr": 0.1}, "lion": {"rule": "b"}, "sgd(lr=0.1)": {}}
    fresh = plan().fresh_jobs(chosen)
    assert len(jobs) + len(fresh) == plan().total == 19
    assert [j.recipe for j in fresh[:6]] == ["adamw", "lion", "sgd(lr=0.1)", "lion", "sgd(lr=0.1)", "adamw"]
    assert [j.recipe for j in plan().fresh_jobs({"lion": {}})] == ["lion"] * 3


def test_fresh_and_tuning_seeds_never_meet():
    seeds = [(p.fresh_seed(i), p.tuning_seed(i)) for p in (plan(), plan(seed=1)) for i in range(1000)]
    assert len({seed for pair in seeds for seed in pair}) == 4000


def test_a_resumed_race_must_be_the_same():
    plan().check_same({"trials": 2, "steps": 10, "recipes": ["adamw", "lion", "sgd(lr=0.1)"]}, "r")
    with pytest.raises(RaceError, match="started with trials 2, not 3; resume it without changing that"):
        plan().check_same({"trials": 3}, "r")
    with pytest.raises(RaceError, match="steps 10, not 20"):
        plan().check_same({"steps": 20}, "r")
    with pytest.raises(RaceError, match="has changed since race 'r' started"):
        plan().check_same({"fingerprint": "abd"}, "r")


def test_command_starts_the_same_race_and_names_no_folder():
    command = plan(conditions=Conditions(steps=10, target=0.5, stop_at_target=True)).command()
    assert command == (
        "thalweg race --task tiny.py --trials 2 --tuning-seeds 2 --seeds 3 --steps 10 --target 0.5 --stop-at-target "
        "--baseline adamw adamw lion 'sgd(lr=0.1)'"
    )
    assert plan(source="").command() == ""
