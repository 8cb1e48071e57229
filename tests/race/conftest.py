"""Small races for the tests of this folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thalweg.race.records import RaceResult
from thalweg.tasks import Task

TINY = Path(__file__).with_name("tiny_task.py")


@pytest.fixture
def tiny_path() -> str:
    """The path of a task file."""
    return str(TINY)


@pytest.fixture
def tiny() -> Task:
    """The same task as an object; its functions can be pickled in this process only."""
    spec = importlib.util.spec_from_file_location("tiny_task_of_tests", TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.task()


@pytest.fixture
def start_thalweg(start_python: Callable[..., Any]) -> Callable[..., Any]:
    """Starts the command line and goes on."""
    return lambda *arguments, **options: start_python("-m", "thalweg.cli", *arguments, **options)


@pytest.fixture(autouse=True)
def settled(settled_heap: None) -> None:
    """All tests of this folder."""


@pytest.fixture
def table() -> Callable[[RaceResult], Any]:
    """What a result says, timings and memory aside."""

    def without_timings(result: RaceResult) -> Any:
        runs = [
            (
                r.recipe,
                r.phase,
                r.index,
                r.seed,
                r.settings,
                r.outcome,
                r.steps,
                r.metric,
                [str(x) for x in r.train_loss],
            )
            for r in result.runs
        ]
        rows = [
            (row.name, row.settings, row.trials, row.steps_to_target, row.steps_ratio, row.steps_ratio_ci, row.final,
             row.final_ci, row.reached, row.diverged, row.failed, row.verdict, row.edges)
            for row in result.recipes
        ]  # fmt: skip
        return result.target, result.target_rule, rows, runs

    return without_timings
