"""The plan of a race: everything that decides its result, stored with it and compared when it is resumed."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thalweg.race.errors import RaceError
from thalweg.race.job import Conditions, Job
from thalweg.race.records import Goal
from thalweg.registry import Space

FRESH_BASE, TUNING_BASE, SEED_STRIDE = 1, 50_001, 100_000


@dataclass(frozen=True)
class Plan:
    """What a race does, as plain data.

    Args:
        task: the task's name.
        source: where the task came from: a built-in name, a file name, or an object's name.
        fingerprint: hash of the task's file, if it has one.
        metric_name: what the metric is called.
        goal: whether it should go down or up.
        recipes: names of the recipes, in the order of the table: their normalized texts, or their labels.
        baseline: the one that the others are compared with.
        trials: settings tried for each recipe.
        tuning_seeds: seeds that each setting is tried on.
        seeds: fresh seeds.
        seed: shifts all seeds, and seeds the sampler of settings.
        conditions: budget, devices, precision.
        spaces: what is tuned, by recipe.
        settings: what is tried, by recipe: drawn when the race starts and never again, so that a resumed race goes on
            with the same settings even where a new version declares another space.
        texts: the normalized text of each recipe that has a label, by name.
        environment: versions and machine at the start.
    """

    task: str
    source: str
    fingerprint: str
    metric_name: str
    goal: Goal
    recipes: list[str]
    baseline: str
    trials: int
    tuning_seeds: int
    seeds: int
    seed: int
    conditions: Conditions
    spaces: dict[str, dict[str, Space]]
    settings: dict[str, list[dict[str, Any]]]
    texts: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def tuning_jobs(self) -> list[Job]:
        """Every tuning run, all recipes side by side."""
        count = max(len(settings) for settings in self.settings.values())
        return [
            Job(
                recipe,
                "tune",
                trial * self.tuning_seeds + number,
                self.tuning_seed(number),
                self.settings[recipe][trial],
                self.texts.get(recipe, ""),
            )
            for trial in range(count)
            for number in range(self.tuning_seeds)
            for recipe in self.recipes
            if trial < len(self.settings[recipe])
        ]

    def fresh_jobs(self, chosen: dict[str, dict[str, Any]]) -> list[Job]:
        """Every fresh run of the recipes whose settings are chosen, seed by seed.

        Runs of one seed lie next to each other in time, and the recipe that comes first changes from seed to seed, so
        that a machine that slows down for a while slows down all recipes alike.
        """
        count = len(self.recipes)
        order = [(n, self.recipes[(n + place) % count]) for n in range(self.seeds) for place in range(count)]
        return [
            Job(name, "fresh", n, self.fresh_seed(n), chosen[name], self.texts.get(name, ""))
            for n, name in order
            if name in chosen
        ]

    def command(self) -> str:
        """The command that starts this race again; empty if it was started with a task object from Python."""
        if not self.source:
            return ""
        words = ["thalweg", "race", "--task", Path(self.source).name if self.fingerprint else self.source]
        fixed = Conditions(steps=self.conditions.steps, eval_every=self.conditions.eval_every)
        numbers = {"trials": self.trials, "tuning_seeds": self.tuning_seeds, "seeds": self.seeds, "seed": self.seed}
        usual = {"tuning_seeds": 1, "seed": 0, **dataclasses.asdict(fixed), "steps": None}
        for key, value in {**numbers, **dataclasses.asdict(self.conditions)}.items():
            if value != usual.get(key):
                words += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
        return shlex.join([*words, "--baseline", self.baseline, *(self.texts.get(name, name) for name in self.recipes)])

    @property
    def total(self) -> int:
        """Number of runs."""
        tuning = sum(len(settings) for settings in self.settings.values()) * self.tuning_seeds
        return tuning + len(self.recipes) * self.seeds

    def tuning_seed(self, number: int) -> int:
        """Seed of the ``number``-th tuning run of a setting."""
        return self.seed * SEED_STRIDE + TUNING_BASE + number

    def fresh_seed(self, number: int) -> int:
        """Seed of the ``number``-th fresh run; no tuning run has it."""
        return self.seed * SEED_STRIDE + FRESH_BASE + number

    def budget(self) -> dict[str, Any]:
        """The budget as tables show it."""
        both = {"steps": self.conditions.steps, "seconds": self.conditions.seconds}
        shown: dict[str, Any] = {key: value for key, value in both.items() if value is not None}
        return {**shown, "trials": self.trials, "tuning_seeds": self.tuning_seeds, "seeds": self.seeds}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """The plan that :meth:`to_json` wrote."""
        known = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        spaces = {recipe: {k: tuple(v) for k, v in space.items()} for recipe, space in data["spaces"].items()}
        return cls(**{**known, "conditions": Conditions(**data["conditions"]), "spaces": spaces})

    def check_same(self, asked: dict[str, Any], name: str) -> None:
        """Raise a one-line :class:`RaceError` if something that was asked for differs from this stored plan."""
        mine = {**dataclasses.asdict(self), **dataclasses.asdict(self.conditions)}
        for key, value in asked.items():
            if value != mine[key]:
                if key == "fingerprint":
                    raise RaceError(
                        f"{self.source} has changed since race {name!r} started; restore it, or start a new race"
                    )
                label = key.replace("_", " ")
                raise RaceError(
                    f"race {name!r} was started with {label} {_brief(mine[key])}, not {_brief(value)}; "
                    "resume it without changing that, or start a new race under another name"
                )


def _brief(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)
