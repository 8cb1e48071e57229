"""From what was asked for to a plan: the task loaded and checked, recipes parsed, settings drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from thalweg import tasks
from thalweg.race.assemble import rehearse
from thalweg.race.errors import RaceError
from thalweg.race.job import Conditions
from thalweg.race.plan import Plan
from thalweg.race.recipe import Recipe, load_methods, parse, parse_all
from thalweg.race.spec import TaskSpec
from thalweg.race.tuning import trial_settings
from thalweg.tasks.check import check_task
from thalweg.tasks.task import Task, TaskError

TRIALS, SEEDS = 6, 5

AnyTask = str | os.PathLike[str] | Task

_OF_CONDITIONS = (
    "steps",
    "seconds",
    "target",
    "stop_at_target",
    "schedule",
    "device",
    "devices",
    "precision",
    "strategy",
)


def load_task(task: AnyTask) -> tuple[TaskSpec, Task]:
    """A task, ready to train, and how it travels; a :class:`TaskError` if it is no good."""
    load_methods()  # before the task, whose file may register methods of its own
    loaded = task if isinstance(task, Task) else tasks.load(task)
    check_task(loaded)
    return TaskSpec.of(task), loaded


def make_plan(
    spec: TaskSpec, task: Task, recipes: Sequence[str], baseline: str | None, asked: Mapping[str, Any]
) -> Plan:
    """The plan of a new race."""
    racing, base = _entrants(recipes, baseline)
    trials = asked.get("trials", TRIALS)
    seed = asked.get("seed", 0)
    settings = {recipe.name: trial_settings(recipe, trials, seed) for recipe in racing}
    for recipe in racing:
        rehearse(recipe, settings[recipe.name][0], task)
    return Plan(
        task=task.name,
        source=spec.value if spec.kind != "object" else "",
        fingerprint=spec.fingerprint,
        metric_name=task.metric_name,
        goal=task.goal,
        recipes=[recipe.name for recipe in racing],
        baseline=base,
        trials=trials,
        tuning_seeds=asked.get("tuning_seeds", 1),
        seeds=asked.get("seeds", SEEDS),
        seed=seed,
        conditions=_conditions(task, asked),
        spaces={recipe.name: recipe.search_space() for recipe in racing},
        settings=settings,
        texts={recipe.name: str(recipe) for recipe in racing if recipe.label},
    )


def check_resumed(
    plan: Plan,
    name: str,
    spec: TaskSpec,
    task: Task,
    recipes: Sequence[str] | None,
    baseline: str | None,
    asked: Mapping[str, Any],
) -> None:
    """A one-line :class:`RaceError` if a stored race is not the one that was asked for."""
    expected: dict[str, Any] = {"task": task.name, "fingerprint": spec.fingerprint, **asked}
    if recipes is not None or baseline is not None:
        stored = [plan.texts.get(name, name) for name in plan.recipes]
        racing, base = _entrants(recipes or stored, baseline or plan.baseline)
        expected.update(recipes=[recipe.name for recipe in racing], baseline=base)
        expected.update(texts={recipe.name: str(recipe) for recipe in racing if recipe.label})
    plan.check_same(expected, name)


def task_of(plan: Plan, name: str) -> str:
    """The task that a resumed race names itself."""
    if not plan.source:
        raise RaceError(
            f"race {name!r} trains a task made in Python ({plan.task}); resume it from there: race(task, resume=True)"
        )
    return plan.source


def _entrants(recipes: Sequence[str], baseline: str | None) -> tuple[list[Recipe], str]:
    """The parsed recipes, the baseline among them."""
    racing = parse_all(recipes)
    if baseline is None:
        return racing, racing[0].name
    if baseline in [recipe.label for recipe in racing]:
        return racing, baseline
    base = parse(baseline)
    return (racing if base in racing else [base, *racing]), base.name


def _conditions(task: Task, asked: Mapping[str, Any]) -> Conditions:
    given = {key: asked[key] for key in _OF_CONDITIONS if key in asked}
    if "seconds" not in given:
        given.setdefault("steps", task.steps)
    if task.target is not None:
        given.setdefault("target", task.target)
    if given.get("stop_at_target") and given.get("target") is None:
        raise ValueError("stop_at_target needs a target: give one, or let the task define it")
    conditions = Conditions(eval_every=task.eval_every, **given)
    if task.batch_size % conditions.devices:
        raise TaskError(
            f"{task.name}: batch_size {task.batch_size} can't be divided among {conditions.devices} devices; choose a multiple"
        )
    return conditions
