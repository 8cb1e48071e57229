"""Which learning rate for every rule, if AdamW had x? Measured on small trainings of three families of tasks.

    python benchmarks/learning_rates.py --minutes 5          # a part of it; the same call goes on
    python benchmarks/learning_rates.py --rules adamw lion --json

For every rule and setting (``learning_rates_tasks.py``) the best learning rate is looked for on a logarithmic grid of half decades
that widens until no optimum lies at an edge, then on quarters around the best point. AdamW comes first: rules
that leave part of the parameters to AdamW get its best rate of the same setting there. Weight decay is 0, everything else at its
default, but for ``FIXED``. What the rates say together, and which suggestions they support, is ``learning_rates_transfer.py``.

Every training is kept in ``--work`` as it ends, so an interrupted benchmark goes on where it was. When all are there, the result
goes to ``benchmarks/results/learning_rates.json``, the ratios that support a suggestion to
``src/thalweg/optim/learning_rates.json``, and the tables of ``docs/learning-rates.md`` are written.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from learning_rates_tasks import SETTINGS, Setting, end_loss, start_loss, task_of
from learning_rates_transfer import FAMILY_RULE, best_exponent, conclusions, shipped, with_tables

from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.optim import list_optimizers
from thalweg.race.environment import machine, versions
from thalweg.race.recipe import load_methods, parse
from thalweg.race.records import jsonable
from thalweg.registry import lookup
from thalweg.tasks import Task

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "learning_rates.json"
SHIPPED = ROOT / "src" / "thalweg" / "optim" / "learning_rates.json"
PAGE = ROOT / "docs" / "learning-rates.md"
WORK = ROOT / "results" / ".work" / "learning_rates.jsonl"

HALF_DECADES = (-0.5, 0.0, 0.5)
"""The first grid, in decades around the rule's last best point, in the same family if there is one, else around the middle of the
range that a race searches; rounded to half a decade. Where a grid begins doesn't decide where it ends: it widens."""

WIDEN = 8
"""Most points that are added beyond an edge: four decades."""

FIXED: dict[str, dict[str, Any]] = {
    **{name: {"rank": 8, "update_every": 20} for name in ("fira", "galore", "natural_galore")},
    **{name: {"rank": 8} for name in ("dct_adamw", "trion")},
    "frugal": {"update_every": 20},
}
"""Settings that differ from their defaults, which are made for matrices and budgets larger than those here."""

LEFT_OUT = {
    "lion_k": "with its default kernel it is Lion",
    "sso": "its learning rate is one of outputs",
}
"""Rules that aren't measured, and why."""


class OutOfTime(Exception):
    """The minutes of this call are used up."""


class Trainings:
    """Losses of trainings by what determines them, kept in a file of JSON lines."""

    def __init__(self, path: Path, minutes: float) -> None:
        self._path, self._until = path, time.process_time() + 60 * minutes
        self._known: dict[str, dict[str, Any]] = {}
        if path.exists():
            lines = path.read_text().splitlines()
            self._known = {row["key"]: row for row in map(_line, lines) if row}

    def loss(self, setting: Setting, task: Task, recipe: str, settings: dict[str, float]) -> float:
        """Validation loss at the end; infinity for a training that broke down.

        Raises:
            OutOfTime: it isn't there, and no time is left to train it.
        """
        described = {"setting": dataclasses.asdict(setting), "recipe": recipe, "settings": settings}
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
        if key not in self._known:
            if time.process_time() > self._until:
                raise OutOfTime
            end = end_loss(setting, task, recipe, settings)
            row = {"key": key, "end": end if math.isfinite(end) else None}
            self._known[key] = row
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        end = self._known[key]["end"]
        return math.inf if end is None else end


def _line(text: str) -> dict[str, Any] | None:
    """A kept training; ``None`` for a line that a crash cut off."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def measured_rules() -> list[str]:
    """Every optimizer that has a learning rate to search and isn't left out."""
    return [rule for rule in list_optimizers() if rule not in LEFT_OUT and "lr" in lookup(rule).search]


def recipe_of(rule: str) -> str:
    """The rule with its fixed settings, as a race writes it."""
    fixed = ", ".join(f"{key}={value!r}" for key, value in FIXED.get(rule, {}).items())
    return f"{rule}({fixed})" if fixed else rule


def first_grid(rule: str, last_best: float | None) -> list[float]:
    """Exponents of ten around the last best one, or around the middle of the searched range."""
    _, low, high = lookup(rule).search["lr"]
    middle = math.log10(low * high) / 2 if last_best is None else last_best
    return [round(2 * middle) / 2 + offset for offset in HALF_DECADES]


def curve(
    rule: str, setting: Setting, task: Task, rest_lr: float | None, grid: list[float], known: Trainings
) -> dict[str, Any]:
    """Losses over learning rates of one rule in one setting: exponents of ten in order, and the loss of each."""
    recipe = recipe_of(rule)
    space = parse(recipe).search_space()
    settings = {"weight_decay": 0.0} if "weight_decay" in space else {}
    if "rest_lr" in space:
        settings["rest_lr"] = rest_lr
    found: dict[float, float] = {}

    def scores(exponents: list[float]) -> list[float]:
        for e in exponents:
            found[e] = known.loss(setting, task, recipe, {**settings, "lr": 10.0**e})
        return [found[e] for e in exponents]

    best_on_log_grid(scores, grid, halvings=1, widen=WIDEN)
    exponents = sorted(found)
    return {"exponents": exponents, "losses": [found[e] for e in exponents]}


def measure(rules: list[str], known: Trainings) -> dict[str, dict[str, Any]]:
    """Curves by rule and name of setting; AdamW's first."""
    curves: dict[str, dict[str, Any]] = {rule: {} for rule in ["adamw", *(r for r in rules if r != "adamw")]}
    last: dict[tuple[str, str], float] = {}
    for number, setting in enumerate(SETTINGS, 1):
        task = task_of(setting)
        start = start_loss(setting, task)
        for rule in curves:
            rest = None if rule == "adamw" else 10 ** best_exponent(curves["adamw"][setting.name])
            found = curve(
                rule,
                setting,
                task,
                rest,
                first_grid(rule, last.get((rule, setting.family), last.get((rule, "")))),
                known,
            )
            curves[rule][setting.name] = found = {**found, "start": start}
            last[rule, setting.family] = last[rule, ""] = best = best_exponent(found)
            print(
                f"setting {number}/{len(SETTINGS)}  {setting.name:44} {rule:16} best {10**best:9.2e}  "
                f"loss {min(found['losses']):.4f} of {found['start']:.3f}  ({len(found['losses'])} rates)",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return curves


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", help="only these, and AdamW; nothing is written then")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many of processor time")
    parser.add_argument("--work", type=Path, default=WORK, help="file of the finished trainings")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    load_methods()
    gc.collect()
    gc.freeze()  # every training collects garbage, which takes longer than the training if it goes over all packages
    try:
        curves = measure(args.rules or measured_rules(), Trainings(args.work, args.minutes))
    except OutOfTime:
        print(f"stopped after {args.minutes:g} minutes; the same call goes on", file=sys.stderr)
        raise SystemExit(3) from None
    families = {setting.name: setting.family for setting in SETTINGS}
    result = jsonable({
        "command": "python benchmarks/learning_rates.py",
        "rule": FAMILY_RULE,
        "fixed": FIXED,
        "settings": {setting.name: dataclasses.asdict(setting) for setting in SETTINGS},
        "environment": {**versions(), **machine("cpu"), "threads": 1},
        "curves": curves,
        "transfer": conclusions(curves, families),
    })  # fmt: skip
    if not args.rules:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        SHIPPED.write_text(json.dumps(shipped(result), indent=1) + "\n")
        PAGE.write_text(with_tables(PAGE.read_text(), result))
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
