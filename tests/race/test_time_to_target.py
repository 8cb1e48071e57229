"""Marks, crossings and pair ratios, by hand."""

import dataclasses
import math

import pytest

from thalweg.race.records import Run
from thalweg.race.time_to_target import (
    SLACK,
    Passage,
    default_target,
    log_ratios,
    marks,
    no_target,
    passage,
    start_value,
    steps_to,
)

NAN = math.nan


def run(metric, steps=None, seconds=None, outcome="finished", step_seconds=NAN):
    steps = list(range(0, 10 * len(metric), 10)) if steps is None else steps
    seconds = [step / 10 for step in steps] if seconds is None else seconds
    return Run(
        "adamw", "fresh", 0, 1, {}, outcome, steps=steps, seconds=seconds, metric=metric, step_seconds=step_seconds
    )


@pytest.mark.parametrize(
    ("metric", "value", "steps"),
    [
        ([1.0, 0.8, 0.4], 0.8, 10),  # exactly at an evaluation
        ([1.0, 0.8, 0.4], 0.6, 15),  # half-way between two
        ([1.0, 0.5, 0.9, 0.4], 0.45, 25),  # the best so far holds until a better one: from 20, not from 10
        ([1.0, 0.5, 0.9, 0.4], 0.7, 6),  # a target that was reached stays reached
        ([1.0, NAN, 0.5], 0.75, 15),  # not a number: no evidence of progress until the next evaluation
        ([NAN, NAN, 0.5, 0.4], 0.6, 20),  # nothing to interpolate from
        ([NAN, 1.0, 0.0], 0.5, 15),
        ([1.0, 0.0], 0.999, 1),  # at least one step
        ([0.3, 0.2], 0.5, 1),  # there from the start
        ([1.0, math.inf, 0.5], 0.5, 20),
        ([1.0, 0.8], 0.7, math.inf),
        ([NAN, NAN], 0.7, math.inf),
        ([], 0.7, math.inf),
    ],
)
def test_steps_to_a_value(metric, value, steps):
    assert steps_to(run(metric), value, "min") == pytest.approx(steps)
    assert steps_to(run([-m for m in metric]), -value, "max") == pytest.approx(steps)


def test_evaluations_may_be_unevenly_spaced():
    assert steps_to(run([4.0, 2.0, 0.0], steps=[0, 3, 103]), 1.0, "min") == pytest.approx(53)


def test_default_target_is_the_weakest_best_value_with_slack():
    runs = [run([2.0, 0.5, 0.7]), run([3.0, 1.0]), run([2.5, 0.8])]
    assert start_value(runs) == 2.5
    assert default_target(runs, "min") == pytest.approx(1.0 + SLACK * 1.5)
    assert all(math.isfinite(steps_to(r, default_target(runs, "min"), "min")) for r in runs)


def test_default_target_upwards():
    runs = [run([0.1, 0.9]), run([0.1, 0.8, 0.7])]
    assert default_target(runs, "max") == pytest.approx(0.8 - SLACK * 0.7)


@pytest.mark.parametrize(("goal", "sign"), [("min", 1), ("max", -1)])
def test_the_slack_never_tightens_the_target(goal, sign):
    runs = [run([sign * m for m in metric]) for metric in ([2.0, 1.0], [2.0, 0.9], [3.0, 2.5])]
    assert default_target(runs, goal) == sign * 2.5  # worse than the median start: nothing to give back
    assert all(math.isfinite(steps_to(r, default_target(runs, goal), goal)) for r in runs)


@pytest.mark.parametrize(("goal", "sign"), [("min", 1), ("max", -1)])
def test_a_target_that_is_met_at_the_start_is_none(goal, sign):
    runs = [dataclasses.replace(run([sign * m for m in metric]), seed=seed)
            for seed, metric in enumerate(([2.0, 1.0], [NAN, 1.5, 0.9], [3.0, 1.8]))]  # fmt: skip
    assert no_target(runs, sign * 1.4, goal, given=True) == ""
    said = no_target(runs, sign * 2.0, goal, given=True)
    assert said == "the target is met before the first step on seeds 0 and 1 of the baseline"
    # seed 2 ends where seed 1 starts: every run improved, yet the weakest best value is nobody's progress
    assert (
        no_target(runs, sign * 1.8, goal, given=False)
        == "the baseline's weakest run ends no better than its start on seed 1"
    )


def test_start_skips_what_is_not_finite():
    assert start_value([run([NAN, 2.0, 1.0]), run([NAN])]) == 2.0
    assert math.isnan(start_value([run([NAN]), run([])]))


def test_marks_halve_what_is_missing():
    assert marks(1.0, 0.2, "min") == pytest.approx((0.6, 0.4, 0.3, 0.25, 0.225, 0.2))
    assert marks(0.0, 0.96, "max")[:2] == pytest.approx((0.48, 0.72))


@pytest.mark.parametrize(("start", "target", "goal"), [(1.0, 1.0, "min"), (0.5, 1.0, "min"), (1.0, 0.5, "max")])
def test_a_target_no_better_than_the_start_is_the_only_mark(start, target, goal):
    assert marks(start, target, goal) == (target,)


def test_passage_reads_seconds_at_the_same_point():
    found = passage(run([1.0, 0.5, 0.0], seconds=[0.0, 3.0, 4.0]), (0.5, 0.25, -1.0), "min", 20)
    assert found.steps == pytest.approx((10, 15, math.inf))
    assert found.seconds == pytest.approx((3.0, 3.5, math.inf))
    assert not found.reached
    assert found.whole_seconds == 4.0


def test_a_run_that_did_not_finish_passed_nothing():
    found = passage(run([1.0, 0.0], outcome="diverged", step_seconds=0.5), (0.5,), "min", 100)
    assert found.steps == found.seconds == (math.inf,)
    assert found.whole_seconds == 50.0


def test_a_budget_in_seconds_is_known_whatever_a_run_tells():
    short, over = run([1.0, 0.0], outcome="diverged", step_seconds=0.5), run([1.0, 0.5], seconds=[0.0, 10.2])
    assert passage(short, (0.5,), "min", NAN, 10.0).whole_seconds == 10.0
    assert passage(over, (0.0,), "min", NAN, 10.0).whole_seconds == 10.2  # its last step overran
    assert passage(run([], outcome="raised"), (0.5,), "min", NAN, 10.0).whole_seconds == 10.0


def test_without_a_whole_budget_in_steps_a_miss_has_no_ratio_of_steps():
    steps, seconds = log_ratios(passed(10, math.inf), passed(10, 20), NAN)
    assert math.isnan(steps) and math.exp(seconds) == pytest.approx(5.0)
    assert log_ratios(passed(10, 40), passed(10, 20), NAN)[0] == pytest.approx(math.log(2) / 2)


def test_a_run_without_any_evaluation():
    found = passage(run([], outcome="raised"), (0.5, 0.1), "min", 100)
    assert found.steps == (math.inf, math.inf)
    assert math.isnan(found.whole_seconds)


def passed(*steps, seconds=None, whole=100.0):
    return Passage(steps, seconds or steps, whole)


def test_pair_ratio_is_the_geometric_mean_over_the_marks():
    steps, seconds = log_ratios(passed(10, 80, seconds=(1.0, 2.0)), passed(20, 40, seconds=(4.0, 8.0)), 100)
    assert math.exp(steps) == pytest.approx(1.0)
    assert math.exp(seconds) == pytest.approx(0.25)


def test_a_miss_is_at_least_the_budget_over_the_partners_time():
    fast_then_stuck = passed(1, 1, math.inf)
    steps, seconds = log_ratios(fast_then_stuck, passed(10, 20, 50), 100)
    assert math.exp(steps) == pytest.approx(2.0)  # not the mean (1/10, 1/20, 2), which would be below 1
    assert math.exp(seconds) == pytest.approx(2.0)


def test_missed_marks_count_as_the_budget_where_that_is_more():
    steps, _ = log_ratios(passed(10, math.inf, math.inf), passed(10, 20, 50), 100)
    assert math.exp(3 * steps) == pytest.approx(1 * 5 * 2)


def test_a_miss_never_counts_as_faster_even_with_fewer_seconds_for_the_budget():
    quick_steps = Passage((math.inf,), (math.inf,), 1.0)
    _, seconds = log_ratios(quick_steps, Passage((50.0,), (30.0,), 60.0), 100)
    assert math.exp(seconds) == pytest.approx(2.0)


def test_neither_arrives():
    assert log_ratios(passed(10, math.inf), passed(20, math.inf), 100) is None


def test_exchanging_the_runs_changes_the_sign():
    pairs = [(passed(1, 2, 3), passed(9, 1, 5)), (passed(1, 2, math.inf), passed(9, 10, 50)), (passed(7), passed(7))]
    for a, b in pairs:
        assert log_ratios(a, b, 100) == pytest.approx([-x for x in log_ratios(b, a, 100)])


def test_unknown_seconds_are_not_a_number():
    steps, seconds = log_ratios(passed(5, seconds=(0.0,)), passed(10), 100)
    assert steps == pytest.approx(-math.log(2))
    assert math.isnan(seconds)
