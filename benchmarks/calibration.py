"""How often a race's words are wrong, and how often they find a difference that is there.

    python benchmarks/calibration.py [--json] [--pool 80] [--races 2000] [--workers 2] [--runs FILE]

Trains pools of real runs (``calibration_pool.py``), one for a budget in steps and one in seconds, draws races from them, each
from other seeds, and asks ``thalweg.race.statistics.conclude`` for the words, exactly as a race does. ``--runs FILE`` keeps the
trained pools, and takes them from there the next time. The result goes to ``benchmarks/results/calibration.json``, and the tables of
``docs/comparison.md`` are written from it.

A pool is finite, so its races overlap: the binomial intervals hold for repetitions on this pool, not on another task.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from calibration_pool import SLOWDOWN, train_pool, tune
from scipy.stats import binomtest

from thalweg.race import statistics, time_to_target
from thalweg.race.environment import environment
from thalweg.race.job import Conditions
from thalweg.race.records import RecipeResult, Run, jsonable
from thalweg.race.statistics import conclude
from thalweg.race.trial import EVALUATIONS
from thalweg.report import marked
from thalweg.tasks import load

RESULT = Path(__file__).parent / "results" / "calibration.json"
PAGE = Path(__file__).parents[1] / "docs" / "comparison.md"
COPIES = 5
SEEDS = (3, 5, 8)
FEWEST = (COPIES + 1) * max(SEEDS)
"""Runs that the largest race needs."""
SINGLE_TARGET: dict[str, Any] = {"MISSING": (0.0,), "SLACK": 0.0}
"""What is compared with: one crossing only, of the weakest best value itself."""

Race = Callable[[np.random.Generator, int], list[RecipeResult]]


class Pool:
    """The trained runs, as a race that evaluates every ``every`` steps would have recorded them."""

    def __init__(self, runs: Sequence[Run], every: int, steps: int) -> None:
        plain = [r for r in runs if r.recipe == "adamw"]
        self.budget, grid = (steps, None), list(range(0, steps + 1, every))
        self.plain = [_at(run, grid, 1.0) for run in plain]
        self.stretched = [_at(run, grid, SLOWDOWN) for run in plain]
        self.idling = [_at(run, grid, 1.0) for run in runs if run.recipe != "adamw"]

    def conclude(self, rows: dict[str, list[Run]]) -> list[RecipeResult]:
        """A race's rows without the baseline's, which is the first; runs are paired by their place."""
        runs = [
            dataclasses.replace(run, recipe=name, index=place, seed=place)
            for name, some in rows.items()
            for place, run in enumerate(some)
        ]
        names = list(rows)
        return conclude(runs, names, names[0], GOAL, None, *self.budget)[2][1:]


class TimedPool(Pool):
    """Runs that were trained for a number of seconds, as they are; no curves are stretched."""

    def __init__(self, runs: Sequence[Run], seconds: float) -> None:
        self.budget = (None, seconds)
        self.plain = [run for run in runs if run.recipe == "adamw"]
        self.idling = [run for run in runs if run.recipe != "adamw"]
        self.stretched = []


GOAL = load("digits").goal


def _at(run: Run, grid: list[int], slower: float) -> Run:
    """``run`` (evaluated at every step) as seen at the steps ``grid``, after being slowed down by stretching it."""
    seen = [round(step / slower) for step in grid]
    curves: dict[str, Any] = {key: [getattr(run, key)[i] for i in seen] for key in ("metric", "train_loss")}
    seconds = [run.seconds[i] * slower for i in seen]
    return dataclasses.replace(run, steps=list(grid), seconds=seconds, **curves)


def races(pool: Pool) -> dict[str, tuple[str, Race]]:
    """Kinds of race: the word that is looked for, and how to draw one with a number of seeds."""

    def draw(rng: np.random.Generator, groups: int, seeds: int) -> list[list[int]]:
        return rng.permutation(len(pool.plain))[: groups * seeds].reshape(groups, seeds).tolist()

    def pick(runs: list[Run], places: list[int]) -> list[Run]:
        return [runs[i] for i in places]

    def equal(rng: np.random.Generator, seeds: int, copies: int = 1) -> list[RecipeResult]:
        groups = draw(rng, copies + 1, seeds)
        return pool.conclude({f"copy {i}": pick(pool.plain, places) for i, places in enumerate(groups)})

    def slowed(rng: np.random.Generator, seeds: int, copies: int = 0) -> list[RecipeResult]:
        ours, theirs, *others = draw(rng, 2 + copies, seeds)
        crowd = {f"copy {i}": pick(pool.plain, places) for i, places in enumerate(others)}
        return pool.conclude({"base": pick(pool.plain, ours), "slow": pick(pool.stretched, theirs), **crowd})[:1]

    def idling(rng: np.random.Generator, seeds: int) -> list[RecipeResult]:
        (places,) = draw(rng, 1, seeds)
        return pool.conclude({"base": pick(pool.plain, places), "slow": pick(pool.idling, places)})

    def catching_up(rng: np.random.Generator, seeds: int) -> list[RecipeResult]:
        (places,) = draw(rng, 1, seeds)
        return pool.conclude({"base": pick(pool.idling, places), "quick": pick(pool.plain, places)})

    kinds: dict[str, tuple[str, Race]] = {
        "A/A": ("any", equal),
        f"A/A, {COPIES} copies": ("any", lambda rng, seeds: equal(rng, seeds, COPIES)),
    }
    if pool.stretched:
        kinds["slowed, stretched curves of other seeds"] = ("slower", slowed)
        kinds[f"slowed, among {COPIES - 1} copies"] = ("slower", lambda rng, seeds: slowed(rng, seeds, COPIES - 1))
    kinds["slowed, trained on the same seeds"] = ("slower", idling)
    kinds["baseline slowed, trained on the same seeds"] = ("faster", catching_up)
    return kinds


def count(kind: str, word: str, race: Race, seeds: int, number: int, decides: str = "steps") -> dict[str, Any]:
    """Draw ``number`` races and count the words, which come from the ratio of steps or of seconds."""
    rng = np.random.default_rng([seeds, *kind.encode()])
    drawn = [race(rng, seeds) for _ in range(number)]
    words = [[row.verdict for row in rows] for rows in drawn]
    hits = sum(any(w in ("faster", "slower") if word == "any" else w == word for w in some) for some in words)
    shown = [getattr(row, f"{decides}_ratio") for rows in drawn for row in rows]
    ratios = [math.log(ratio) for ratio in shown if ratio]
    low, high = binomtest(hits, number).proportion_ci(method="wilson")
    return {
        "race": kind,
        "seeds": seeds,
        "races": number,
        "word": "faster or slower" if word == "any" else word,
        "rate": hits / number,
        "rate_ci": [low, high],
        "faster": sum("faster" in some for some in words) / number,
        "slower": sum("slower" in some for some in words) / number,
        "ratio": math.exp(float(np.mean(ratios))),
        "arrived": float(np.mean([row.reached / row.seeds for rows in drawn for row in rows])),
    }


def calibrate(runs: Sequence[Run], number: int) -> list[dict[str, Any]]:
    """Every kind of race, at the default and at a finer spacing of evaluations, and with the methods not taken."""
    steps = load("digits").steps
    rows: list[dict[str, Any]] = []
    for every in (max(1, steps // EVALUATIONS), max(1, steps // EVALUATIONS // 4)):
        pool = Pool(runs, every, steps)
        for method, changed, floor in METHODS:
            with ExitStack() as stack:
                for name, value in changed.items():
                    stack.enter_context(patch.object(time_to_target, name, value))
                stack.enter_context(patch.object(statistics, "SPREAD_FLOOR", floor))
                for kind, (word, race) in races(pool).items():
                    for seeds in SEEDS if method == METHODS[0][0] else (5,):
                        row = count(kind, word, race, seeds, number)
                        rows.append({"method": method, "eval_every": every, **row})
    return rows


def calibrate_timed(runs: Sequence[Run], seconds: float, number: int) -> list[dict[str, Any]]:
    """Every kind of race with a budget in seconds, for runs that had one."""
    kinds = races(TimedPool(runs, seconds))
    return [count(kind, *drawn, seeds, number, "seconds") for kind, drawn in kinds.items() for seeds in SEEDS]


METHODS: list[tuple[str, dict[str, Any], float]] = [
    ("race", {}, statistics.SPREAD_FLOOR),
    ("marks, no floor", {}, 0.0),
    ("one target with slack", {"MISSING": (0.0,)}, 0.0),
    ("one target", SINGLE_TARGET, 0.0),
]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="How often a race's words are wrong, and how often they find something."
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--pool", type=int, default=80, help="fresh seeds trained, each twice (80)")
    parser.add_argument("--races", type=int, default=2000, help="races drawn of each kind (2000)")
    parser.add_argument("--workers", type=int, default=2, help="processes that train (2)")
    parser.add_argument("--runs", type=Path, help="file of the trained pool: read if it is there, else written")
    args = parser.parse_args()
    if args.pool < FEWEST or args.races < 40:
        parser.error(f"--pool must be at least {FEWEST} and --races at least 40")
    pools = json.loads(args.runs.read_text()) if args.runs and args.runs.exists() else train(args.pool, args.workers)
    if args.runs and not args.runs.exists():
        args.runs.write_text(json.dumps(pools))
    runs, timed = ([Run.from_json(run) for run in pools[key]] for key in ("steps", "seconds"))
    if any(sum(run.recipe == "adamw" for run in some) < FEWEST for some in (runs, timed)):
        parser.error(f"{args.runs} holds fewer than {FEWEST} runs of each kind")
    fresh = sorted({run.seed for run in runs})
    plain = [run for run in timed if run.recipe == "adamw"]
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/calibration.py", *map(_without_folder, sys.argv[1:])]),
        "task": "digits",
        "recipe": "adamw",
        "settings": runs[0].settings,
        "seeds": [fresh[0], fresh[-1]],
        "slowdown": SLOWDOWN,
        "unfinished": sum(run.outcome != "finished" for run in (*runs, *timed)),
        "environment": environment(Conditions(device="cpu"), args.workers, 1),
        "rows": calibrate(runs, args.races),
        "timed": {
            "seconds": pools["budget"],
            "steps": np.percentile([run.steps[-1] for run in plain], (5, 50, 95)).tolist(),
            "slower_steps": _step_seconds(run for run in timed if run.recipe != "adamw") / _step_seconds(plain),
            "rows": calibrate_timed(timed, pools["budget"], args.races),
        },
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(jsonable(result), indent=1) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text(), result))
    timed_rows = [{"method": "race", "eval_every": 0, **row} for row in result["timed"]["rows"]]
    print(json.dumps(jsonable(result)) if args.json else table([*result["rows"], *timed_rows]))


def _without_folder(word: str) -> str:
    return Path(word).name if "/" in word else word


def _step_seconds(runs: Iterable[Run]) -> float:
    return median(run.step_seconds for run in runs)


def train(seeds: int, workers: int) -> dict[str, Any]:
    """The pools as JSON: runs for the task's steps, and for as many seconds as the median of these took."""
    settings = tune()
    runs = train_pool(settings, seeds, workers)
    budget = float(f"{median(run.seconds[-1] for run in runs):.2g}")
    timed = train_pool(settings, seeds, workers, budget)
    return {"budget": budget, "steps": [r.to_json() for r in runs], "seconds": [r.to_json() for r in timed]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rates, one line a row."""
    lines = [f"{'method':22}{'every':>6}{'seeds':>6}  {'race':44}{'word':18}{'rate':>7}  {'95%':14}{'ratio':>6}"]
    for row in rows:
        low, high = row["rate_ci"]
        lines.append(
            f"{row['method']:22}{row['eval_every']:6}{row['seeds']:6}  {row['race']:44}{row['word']:18}{row['rate']:7.1%}"
            f"  {low:5.1%}-{high:<6.1%} {row['ratio']:6.2f}"
        )
    return "\n".join(lines)


def with_tables(page: str, result: dict[str, Any]) -> str:
    """``page`` with the text between its ``calibration`` comments replaced by the tables of ``result``."""
    tables = {
        "words": _words_table(result),
        "methods": _methods_table(result),
        "seconds": _timed_table(result["timed"]),
    }
    return marked.with_tables(page, "calibration", tables)


def _words_table(result: dict[str, Any]) -> list[str]:
    every = sorted({row["eval_every"] for row in result["rows"]}, reverse=True)
    heads = [f"{seeds} seeds, every {step} steps" for step in every for seeds in SEEDS]
    lines = [f"| race | word | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    found = {(r["race"], r["eval_every"], r["seeds"]): r for r in result["rows"] if r["method"] == METHODS[0][0]}
    for kind in dict.fromkeys(key[0] for key in found):
        rates = [_rate(found.get((kind, step, seeds))) for step in every for seeds in SEEDS]
        lines.append(f"| {kind} | {found[kind, every[0], 5]['word']} | {' | '.join(rates)} |")
    return lines


def _timed_table(timed: dict[str, Any]) -> list[str]:
    slow, middle, fast = timed["steps"]
    lines = [
        f"Every run had {timed['seconds']:g} seconds; AdamW took {middle:.0f} steps in them (the middle 90% of the runs "
        f"{slow:.0f} to {fast:.0f}). The slowed copy's steps took {timed['slower_steps']:.2f} times as long, by their medians.",
        "",
        f"| race | word | {' | '.join(f'{seeds} seeds' for seeds in SEEDS)} | ratio of seconds, {SEEDS[1]} seeds |",
        f"|---|---|{'---:|' * (len(SEEDS) + 1)}",
    ]
    found = {(row["race"], row["seeds"]): row for row in timed["rows"]}
    for kind in dict.fromkeys(key[0] for key in found):
        one = found[kind, SEEDS[1]]
        rates = [_rate(found[kind, seeds]) for seeds in SEEDS]
        lines.append(f"| {kind} | {one['word']} | {' | '.join(rates)} | {one['ratio']:.2f} |")
    return lines


def _methods_table(result: dict[str, Any]) -> list[str]:
    every = max(row["eval_every"] for row in result["rows"])
    rows = [row for row in result["rows"] if row["eval_every"] == every and row["seeds"] == 5]
    kinds = list(dict.fromkeys(row["race"] for row in rows))
    lines = [f"| method | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    for method, *_ in METHODS:
        rates = {row["race"]: _rate(row) for row in rows if row["method"] == method}
        lines.append(f"| {method} | {' | '.join(rates[kind] for kind in kinds)} |")
    return lines


def _rate(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = row["rate_ci"]
    return f"{row['rate']:.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
