"""The calibration that the docs quote: its bars, its page, and that the benchmark does what it says."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from thalweg.race.records import Run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def calibration():
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location("calibration", ROOT / "benchmarks" / "calibration.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def result(calibration):
    return json.loads(calibration.RESULT.read_text())


def test_the_page_shows_the_stored_rates(calibration, result):
    page = calibration.PAGE.read_text()
    assert calibration.with_tables(page, result) == page
    assert page.count("95%") > 0 and "<!-- calibration: words -->\n| race |" in page


def test_races_between_equals_hold_the_bar(result):
    rows = [row for row in result["rows"] if row["method"] == "race" and row["race"].startswith("A/A")]
    assert {row["seeds"] for row in rows} == {3, 5, 8}
    assert all(row["races"] >= 40 for row in rows)
    assert all(row["rate_ci"][0] <= 0.05 for row in rows)
    assert all(row["rate"] <= 0.05 for row in rows if row["seeds"] == 5)
    timed = [row for row in result["timed"]["rows"] if row["race"].startswith("A/A")]
    assert sorted(row["seeds"] for row in timed) == [3, 3, 5, 5, 8, 8]
    assert all(row["races"] >= 40 and row["rate"] <= 0.05 for row in timed)


def test_a_planted_slowdown_is_found_with_five_seeds(result):
    rows = [row for row in result["rows"] if row["method"] == "race" and row["seeds"] == 5]
    alone = [row for row in rows if "slowed" in row["race"] and "among" not in row["race"]]
    assert len(alone) == 6  # three kinds, two spacings of evaluations
    assert all(row["races"] >= 40 and row["rate"] >= 0.8 for row in alone)


def pool_of_lines(count=60, spread=0.1):
    """Straight accuracy curves of varied speed, evaluated at each of 300 steps."""
    rng = np.random.default_rng(0)
    runs = []
    for seed in range(count):
        speed = np.exp(rng.normal(0, spread)) / 200
        for recipe, slower in (("adamw", 1.0), ("idling_adamw", 1.3)):
            metric = [min(1.0, 0.1 + 0.9 * step * speed / slower) for step in range(301)]
            times = [step / 100 for step in range(301)]
            runs.append(
                Run(
                    recipe,
                    "fresh",
                    seed,
                    seed,
                    {},
                    steps=list(range(301)),
                    seconds=times,
                    train_loss=times,
                    metric=metric,
                    step_seconds=0.01,
                )
            )
    return runs


def test_drawn_races_of_straight_lines(calibration):
    pool = calibration.Pool(pool_of_lines(), 10, 300)
    kinds = calibration.races(pool)
    rows = {kind: calibration.count(kind, word, race, 5, 40) for kind, (word, race) in kinds.items()}
    assert rows["A/A"]["rate"] <= 0.2
    assert rows["A/A"]["ratio"] == pytest.approx(1, abs=0.05)
    assert rows["slowed, trained on the same seeds"]["rate"] == 1
    assert rows["slowed, trained on the same seeds"]["ratio"] == pytest.approx(1.3, abs=0.02)
    assert rows["baseline slowed, trained on the same seeds"]["faster"] == 1
    assert rows["slowed, stretched curves of other seeds"]["ratio"] == pytest.approx(1.3, abs=0.06)


def test_drawn_races_of_straight_lines_with_a_budget_in_seconds(calibration):
    runs = [run for run in pool_of_lines() if run.recipe == "adamw"]
    grid = list(range(0, 301, 10))
    slow = [dataclasses.replace(calibration._at(run, grid, 1.3), recipe="slow_adamw") for run in runs]
    pool = calibration.TimedPool([*[calibration._at(run, grid, 1.0) for run in runs], *slow], 3.0)
    assert all(run.seconds[-1] == pytest.approx(3.0) for run in pool.plain)
    kinds = calibration.races(pool)
    assert not any("stretched" in kind or "among" in kind for kind in kinds)
    rows = {kind: calibration.count(kind, *drawn, 5, 40, "seconds") for kind, drawn in kinds.items()}
    assert rows["A/A"]["rate"] <= 0.2
    assert rows["slowed, trained on the same seeds"]["rate"] == 1
    assert rows["baseline slowed, trained on the same seeds"]["faster"] == 1
    assert rows["slowed, trained on the same seeds"]["ratio"] == pytest.approx(1.3, abs=0.05)


def test_stretching_keeps_the_curve_and_delays_it(calibration):
    run = pool_of_lines(1)[0]
    slow = calibration._at(run, list(range(0, 301, 13)), 1.3)
    assert slow.metric == [run.metric[step] for step in range(0, 231, 10)]
    assert slow.seconds[1] == pytest.approx(0.13)
