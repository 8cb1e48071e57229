"""The README's race: it says what is stored, and what is stored is what its command would still do."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import pytest
import torch
import typer

from thalweg import tasks
from thalweg.cli import app
from thalweg.race import parse
from thalweg.race.job import Conditions, Job
from thalweg.race.orchestrate import stored_result
from thalweg.race.prepare import SEEDS, TRIALS
from thalweg.race.trial import train
from thalweg.race.tuning import trial_settings

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench():
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("readme_race")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def stored(bench):
    return stored_result(str(bench.FOLDER / bench.NAME))


def test_the_readme_says_what_is_stored(bench):
    page = bench.PAGE.read_text(encoding="utf-8")
    assert bench.with_words(page) == page, "run: python benchmarks/readme_race.py --page"
    assert f"({bench.FIGURE.relative_to(ROOT)})" in page


def test_the_command_that_is_shown_is_the_stored_race(bench, stored):
    words = shlex.split(bench.COMMAND)
    given = typer.main.get_command(app).commands[words[1]].make_context(words[1], words[2:]).params
    asked = {key: value for key, value in given.items() if value not in (None, False, (), [])}
    assert {key: asked[key] for key in ("task", "steps")} == {"task": stored.task, "steps": stored.budget["steps"]}
    assert list(asked["recipes"]) == [row.name for row in stored.recipes]
    assert set(asked) == {"task", "steps", "recipes", "out"}
    assert (stored.budget["trials"], stored.budget["seeds"]) == (TRIALS, SEEDS)


def test_the_same_settings_would_be_tried_today(stored):
    for row in stored.recipes:
        tried = [run.settings for run in stored.runs_of(row.name, "tune")]
        today = trial_settings(parse(row.name), TRIALS)
        assert [sorted(settings) for settings in tried] == [sorted(settings) for settings in today]
        for old, new in zip(tried, today, strict=True):
            assert list(old.values()) == pytest.approx([new[key] for key in old], rel=1e-6)


@pytest.mark.parametrize("recipe", ["adamw", "muon"])
def test_training_still_begins_as_it_did(stored, recipe):
    """A change of a rule, of the task or of the schedule would show within 24 steps; rounding doesn't."""
    run = stored.runs_of(recipe, "fresh")[0]
    task, job = tasks.load(stored.task), Job(recipe, "fresh", 0, run.seed, run.settings)
    seen: list[float] = []

    def stop(share: float) -> None:
        seen.append(share)
        if len(seen) == 3:
            raise SystemExit("enough")

    before = torch.get_rng_state()
    again = train(task, job, Conditions(steps=stored.budget["steps"], device="cpu"), stop)
    torch.set_rng_state(before)
    count = len(again.steps)
    assert count >= 4 and again.steps == run.steps[:count]
    assert again.metric == pytest.approx(run.metric[:count], abs=0.02)
    assert again.train_loss[1:] == pytest.approx(run.train_loss[1:count], rel=0.05)
