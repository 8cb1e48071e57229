"""The benchmark of learning rates: what it concludes from curves, how it looks for them, and that page and data are its own."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from thalweg.race.job import Conditions, Job
from thalweg.race.trial import train

ROOT = Path(__file__).parents[1]
FAMILIES = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}


@pytest.fixture(scope="module", autouse=True)
def on_path():
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def bench():
    return importlib.import_module("learning_rates")


@pytest.fixture(scope="module")
def transfer():
    return importlib.import_module("learning_rates_transfer")


def bowl(best, points=(-4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0)):
    """A loss that is a parabola over the logarithm of the learning rate, 1 at its best, 2 at the start."""
    return {"exponents": list(points), "losses": [1 + 0.2 * (e - best) ** 2 for e in points], "start": 2.0}


def test_the_optimum_of_a_parabola_is_exact(transfer):
    assert transfer.best_exponent(bowl(-2.3)) == pytest.approx(-2.3)
    assert transfer.best_exponent(bowl(-2.3, (-4.0, -3.0, -2.5, -2.25, -2.0, -1.0))) == pytest.approx(-2.3)


def test_an_optimum_at_an_edge_or_beside_a_broken_training_is_its_point(transfer):
    edge, broken = bowl(-5.0), bowl(-2.4)
    assert transfer.best_exponent(edge) == -4.0 and not transfer.inside(edge)
    broken["losses"][4:] = [None] * 5
    assert transfer.best_exponent(broken) == -2.5 and transfer.inside(broken)


def test_cost_is_the_share_of_the_gain(transfer):
    curve = {"exponents": [-3.0, -2.0, -1.0], "losses": [1.5, 1.0, None], "start": 2.0}
    assert transfer.cost(curve, -2.0) == 0
    assert transfer.cost(curve, -2.5) == pytest.approx(0.25)
    assert transfer.cost(curve, -1.0) == 1  # broken: nothing gained
    assert transfer.cost(curve, -0.9) == transfer.cost(curve, -3.1) == 1  # not measured


def test_families_weigh_the_same(transfer):
    values = {"a1": 0.0, "a2": 1.0, "b1": 2.0, "c1": 5.0}
    assert transfer.family_mean(values, FAMILIES) == pytest.approx((0.5 + 2 + 5) / 3)
    assert transfer.family_mean(values, FAMILIES, without="a") == pytest.approx(3.5)


def curves(bests):
    return {name: bowl(best) for name, best in zip(FAMILIES, bests, strict=True)}


def test_a_constant_ratio_is_found_and_supported(transfer):
    found = transfer.transfer(curves([-3, -2.5, -2, -1.5]), curves([-2.5, -2, -1.5, -1]), FAMILIES)
    assert found["ratio"] == pytest.approx(10**0.5) and found["spread"] == pytest.approx(1) and found["supported"]
    assert found["error"] == pytest.approx(1) and found["control"] > 2 and found["near"] == 4
    assert found["range"] == pytest.approx([1e-3, 10**-1.5])


def test_a_ratio_that_differs_between_families_is_not(transfer):
    found = transfer.transfer(curves([-2] * 4), curves([-1, -1, -2, -3]), FAMILIES)
    assert not found["supported"] and "further than a factor of 3 from the best: 3 of 4" in found["why"]
    # Family a is suggested -2.5 in place of -1, c -1.5 in place of -3.
    errors = [-1.5, -1.5, 0.0, 1.5]
    assert found["error"] == pytest.approx(10 ** math.sqrt(sum(e * e for e in errors) / 4))


def test_an_edge_denies_support(transfer):
    found = transfer.transfer(curves([-2] * 4), curves([-2, -2, -2, -4.5]), FAMILIES)
    assert "edge" in found["why"] and not found["supported"]


def test_a_flat_optimum_may_be_missed_by_more(transfer):
    flat = curves([-2, -2, -2, -1.5])
    flat["c1"]["losses"] = [1 + 0.005 * (loss - 1) for loss in flat["c1"]["losses"]]
    found = transfer.transfer(curves([-2] * 4), flat, FAMILIES)
    assert found["near"] == 3 and found["supported"]


class Bowls:
    """Trainings whose losses are known."""

    def __init__(self, best):
        self.best, self.asked = best, []

    def loss(self, setting, task, recipe, settings):
        self.asked.append((recipe, settings))
        return 1 + 0.2 * (math.log10(settings["lr"]) - self.best) ** 2


def test_a_grid_widens_until_the_optimum_is_inside(bench, transfer):
    known = Bowls(-5.1)
    found = bench.curve("adamw", None, None, None, bench.first_grid("adamw", None), known)
    assert transfer.inside(found) and transfer.best_exponent(found) == pytest.approx(-5.1)
    assert found["exponents"] == sorted(found["exponents"]) and min(found["exponents"]) == -5.5
    assert all(settings["weight_decay"] == 0 and recipe == "adamw" for recipe, settings in known.asked)


def test_rules_with_a_rest_get_adamws_rate_there(bench):
    known = Bowls(-2.0)
    bench.curve("galore", None, None, 0.007, bench.first_grid("galore", -2.1), known)
    assert {settings["rest_lr"] for _, settings in known.asked} == {0.007}
    assert known.asked[0][0] == "galore(rank=8, update_every=20)"


def test_trainings_are_kept_and_stop_in_time(bench, tmp_path, monkeypatch):
    calls = []

    def end_loss(setting, task, recipe, settings):
        calls.append(settings)
        return math.inf if settings["lr"] > 1 else 0.123456789

    monkeypatch.setattr(bench, "end_loss", end_loss)
    file, setting = tmp_path / "work" / "kept.jsonl", bench.SETTINGS[0]
    first = bench.Trainings(file, 1.0)
    assert first.loss(setting, None, "adamw", {"lr": 0.1}) == 0.123456789
    assert first.loss(setting, None, "adamw", {"lr": 10.0}) == math.inf
    with file.open("a") as end:
        end.write('{"key": "cut o')
    again = bench.Trainings(file, 0.0)
    assert again.loss(setting, None, "adamw", {"lr": 0.1}) == 0.123456789
    assert again.loss(setting, None, "adamw", {"lr": 10.0}) == math.inf and len(calls) == 2
    with pytest.raises(bench.OutOfTime):
        again.loss(bench.SETTINGS[1], None, "adamw", {"lr": 0.1})


def test_it_trains_as_a_race_does():
    """The same start, batches, schedule and steps: the same loss, but for the order in which it is summed."""
    tasks = importlib.import_module("learning_rates_tasks")
    setting = dataclasses.replace(tasks.SETTINGS[0], steps=7)
    task = tasks.task_of(setting)
    job = Job("muon", "tune", 0, setting.seed, {"lr": 0.05, "rest_lr": 0.01})
    run = train(task, job, Conditions(steps=7, eval_every=7, device="cpu"))
    assert tasks.start_loss(setting, task) == pytest.approx(run.metric[0], rel=1e-5)
    assert tasks.end_loss(setting, task, job.recipe, job.settings) == pytest.approx(run.metric[1], rel=1e-4)


def test_a_training_that_breaks_down_is_infinitely_bad():
    tasks = importlib.import_module("learning_rates_tasks")
    setting = dataclasses.replace(tasks.SETTINGS[0], steps=20)
    assert tasks.end_loss(setting, tasks.task_of(setting), "sgd", {"lr": 1e6}) == math.inf


def test_every_setting_is_a_task_of_its_size():
    tasks = importlib.import_module("learning_rates_tasks")
    for setting in tasks.SETTINGS[:3]:
        task = tasks.task_of(setting)
        inputs, targets = (torch.stack(column) for column in zip(*(task.valid[i] for i in range(4)), strict=True))
        assert len(task.valid) == tasks.VALID_EXAMPLES[setting.family] and task.metric is None
        assert math.isfinite(task.loss(task.model().eval()(inputs), targets).item())


def test_page_and_data_are_those_of_the_result_or_there_is_none_of_them(bench, transfer):
    page = bench.PAGE.read_text()
    if not bench.RESULT.exists():
        assert not bench.SHIPPED.exists() and page.count(transfer.PENDING) == 5
        return
    result = json.loads(bench.RESULT.read_text())
    assert page == transfer.with_tables(page, result) and transfer.PENDING not in page
    assert json.loads(bench.SHIPPED.read_text()) == transfer.shipped(result)
    families = {name: setting["family"] for name, setting in result["settings"].items()}
    assert result["rule"] == transfer.FAMILY_RULE and len(set(families.values())) == 3
    assert json.loads(json.dumps(transfer.conclusions(result["curves"], families))) == result["transfer"]
    assert all(set(found) == set(families) for found in result["curves"].values())


def test_tables_are_written_from_a_result(bench, transfer):
    found = {name: curves([-2, -2.1, -2.2, -2.3]) for name in ("adamw", "lion")} | {"lars": curves([-2, -2, -2, -4.5])}
    settings = {name: {"family": family} for name, family in FAMILIES.items()}
    environment = {"processor": "one", "python": "3", "torch": "2"}
    made = {"command": "x", "rule": "The rule.", "settings": settings, "environment": environment, "curves": found}
    made["transfer"] = transfer.conclusions(found, FAMILIES)
    page = transfer.with_tables(bench.PAGE.read_text(), made)
    assert "| lion | 1 | 1 | 1 | 1.5 | 4 of 4 | 0.4% | 0.6% | yes | yes |" in page
    assert re.search(r"\| lars \|.*\| no, an optimum lies at an edge \|", page)
    assert page == transfer.with_tables(page, made) and transfer.shipped(made)["pairs"]["adamw"]["lion"]["ratio"] == 1
    with pytest.raises(ValueError, match="no place for the table 'rule'"):
        transfer.with_tables("# Nothing", made)
