"""The race of the update rules: what races, and that its page tells what is stored."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from thalweg.race import parse
from thalweg.race.tuning import trial_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench():
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("rules_race")
    sys.path.remove(folder)


def test_every_rule_tunes_its_learning_rate_alone_and_as_often(bench):
    recipes = [parse(text) for text in bench.RULES]
    assert len({recipe.name for recipe in recipes}) == len(recipes) >= 20
    for recipe in recipes:
        assert recipe.label == recipe.parts[0].name and list(recipe.search_space()) == ["lr"], recipe
        _, low, high = recipe.search_space()["lr"]
        rates = [settings["lr"] for settings in trial_settings(recipe, bench.TRIALS)]
        assert high / low > 2500 and len(rates) == bench.TRIALS and low <= recipe.defaults()["lr"] <= high, recipe


def test_the_page_tells_what_is_stored(bench):
    results = bench.finished()
    assert "mnist5k" in [result.task for result in results]
    page = bench.PAGE.read_text(encoding="utf-8")
    assert bench.with_tables(page, results) == page, "run: python benchmarks/rules_race.py --page"
    for result in results:
        assert result.budget["seeds"] >= 5
        assert [row.text for row in result.recipes] == [str(parse(text)) for text in bench.RULES]
