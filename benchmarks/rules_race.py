"""The race of the update rules on two tasks, and the page that tells what came of it.

    python benchmarks/rules_race.py             # an hour and a half on one core; the same call goes on where it was
    python benchmarks/rules_race.py --page      # only the page, from the stored races

Every rule is tuned over one number, its learning rate: the published default, and an even grid over 3.5 decades; then the best one
of each runs on fresh seeds. Weight decay is 0, and all else is a default or stands in ``RULES``. A first race on digits showed where
ranges had to be wider. The races stay in ``results/races``, storage and report; tables go to
``docs/rules-race.md`` and the figure to ``docs/images/rules-race.png``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from thalweg.race import RaceResult, RecipeResult, race
from thalweg.race.folders import REPORT
from thalweg.race.orchestrate import stored_result
from thalweg.race.profiles import TAU_MAX, Profile, profiles
from thalweg.report import marked
from thalweg.report.figures import write_image
from thalweg.report.numbers import interval, number, ratio
from thalweg.report.profiles import profile_curves
from thalweg.report.text import count, listing

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "races"
PAGE = ROOT / "docs" / "rules-race.md"
FIGURE = ROOT / "docs" / "images" / "rules-race.png"
TASKS = ("mnist5k", "docs-lm")
TRIALS, SEEDS = 9, 5
SHOWN = 6
"""Rules in the figure: the best by their scores."""

RULES = (
    "adamw: adamw(lr=log(1e-4, 0.3), weight_decay=0.0)",
    "sgd: sgd(lr=log(3e-3, 10.0), weight_decay=0.0)",
    "adagrad: adagrad(lr=log(1e-3, 3.0), weight_decay=0.0)",
    "adabelief: adabelief(lr=log(1e-4, 0.3), weight_decay=0.0)",
    "adamp: adamp(lr=log(1e-4, 0.3), weight_decay=0.0)",
    "sgdp: sgdp(lr=log(3e-3, 10.0), weight_decay=0.0)",
    "diffgrad: diffgrad(lr=log(1e-4, 0.3), weight_decay=0.0)",
    "lamb: lamb(lr=log(3e-4, 1.0), weight_decay=0.0)",
    "lars: lars(lr=log(0.1, 300.0), weight_decay=0.0)",
    "lion: lion(lr=log(1e-5, 0.03), weight_decay=0.0)",
    "sophia: sophia(lr=log(3e-5, 0.1), rho=0.04, weight_decay=0.0)",
    "sam: sam(lr=log(1e-4, 0.3), rho=0.05, weight_decay=0.0)",
    "muon: muon(lr=log(1e-3, 3.0), rest_lr=0.005, weight_decay=0.0)",
    "normuon: normuon(lr=log(1e-3, 3.0), rest_lr=0.005, weight_decay=0.0)",
    "trion: trion(lr=log(1e-3, 3.0), rank=16, rest_lr=0.005, weight_decay=0.0)",
    "auon: auon(lr=log(0.03, 100.0), normalize=False, rest_lr=0.005, weight_decay=0.0)",
    "hybrid_auon: hybrid_auon(lr=log(1e-3, 3.0), rest_lr=0.005, weight_decay=0.0)",
    "galore: galore(lr=log(1e-3, 3.0), rank=16, rest_lr=0.005, update_every=40)",
    "fira: fira(lr=log(1e-3, 3.0), rank=16, rest_lr=0.005, update_every=40)",
    "frugal: frugal(density=0.25, lr=log(3e-4, 1.0), rest_lr=0.005, update_every=40)",
    "natural_galore: natural_galore(lr=log(3e-3, 10.0), rank=16, rest_lr=0.005, update_every=40)",
    "dct_adamw: dct_adamw(lr=log(1e-3, 3.0), rank=16, rest_lr=0.005)",
)
"""What races. ``rest_lr``, AdamW's rate for what the rule leaves to it, lies between AdamW's best on the two tasks."""

CONTROL = (
    RULES[0],
    "adamw two rates: frugal(density=1.0, lr=log(1e-4, 0.3), on_switch='keep', rest_lr=0.005)",
)
"""AdamW as the baseline, and with the same rate of its own for the rest as other rules have: all blocks active is plain AdamW."""

NOT_YET = ["This race isn't finished yet."]


def with_tables(page: str, results: Sequence[RaceResult]) -> str:
    """``page`` with the tables of the finished races."""
    by_task = {result.task: result for result in results}
    tables = {task: _table(by_task[task]) if task in by_task else NOT_YET for task in TASKS}
    tables |= {f"{task} in words": _words(by_task[task]) if task in by_task else [] for task in TASKS}
    tables["control"] = _controls()
    tables["scores"] = _scores(profiles(results)) if len(results) == len(TASKS) else NOT_YET
    tables["versions"] = _versions(results)
    return marked.with_tables(page, "race", tables)


def finished(kind: str = "rules") -> list[RaceResult]:
    """The stored races of all rules, or of the control, that came to an end, in the order of :data:`TASKS`."""
    folders = [FOLDER / f"{kind}-{task}" for task in TASKS]
    return [stored_result(str(folder)) for folder in folders if (folder / REPORT).is_file()]


def _table(result: RaceResult) -> list[str]:
    lines = [
        f"| rule | steps ratio | | verdict | arrived | final {result.metric_name} | | best learning rate |",
        "|---|---:|---|---|---:|---:|---|---:|",
    ]
    return lines + [
        f"| `{row.name}` | {ratio(row.steps_ratio)} | {interval(row.steps_ratio_ci)} | {row.verdict} "
        f"| {row.reached} of {row.seeds} | {number(row.final)} | {interval(row.final_ci, number)} "
        f"| {number(row.settings['lr'], 2)} |"
        for row in _in_order(result)
    ]


def _in_order(result: RaceResult) -> list[RecipeResult]:
    """The quickest to the target first; then, by their final metric, those that don't get there."""
    never = math.inf
    return sorted(
        result.recipes,
        key=lambda row: (
            1.0 if row.name == result.baseline else row.steps_ratio or never,
            never if row.final is None else row.final,
        ),
    )


def _words(result: RaceResult) -> list[str]:
    """What the table says, and whether the ranges were wide enough."""
    by = {
        verdict: [row.name for row in _in_order(result) if row.verdict == verdict]
        for verdict in ("faster", "slower", "no difference shown", "too few seeds", "failed", "no comparison")
    }
    said = [f"{verdict}: {listing([f'`{n}`' for n in names])}" for verdict, names in by.items() if names]
    best = min((row for row in result.recipes if row.final is not None), key=lambda row: row.final or math.inf)
    base = next(row for row in result.recipes if row.name == result.baseline)
    at_edge = {row.name: row.settings["lr"] for row in result.recipes if "lr" in row.edges or _outermost(result, row)}
    edges = "; ".join(f"`{name}` at {number(lr, 2)}" for name, lr in at_edge.items())
    metric = result.metric_name
    return [
        f"Against `{base.name}`, {count(len(result.recipes) - 1, 'rule')}: {'; '.join(said)}. "
        f"The lowest final {metric} is that of `{best.name}`, {number(best.final)}; `{base.name}` has {number(base.final)}. "
        f"{'Best rates at an edge of what was tried: ' + edges if at_edge else 'No best rate lies at an edge of what was tried'}."
    ]


def _outermost(result: RaceResult, row: RecipeResult) -> bool:
    """Whether no higher or no lower learning rate than the best one was tried."""
    tried = [run.settings["lr"] for run in result.runs_of(row.name, "tune")]
    return row.settings["lr"] in (min(tried), max(tried))


def _controls() -> list[str]:
    lines = ["| task | steps ratio | | verdict | final metric | best learning rate |", "|---|---:|---|---|---|---:|"]
    for result in finished("control"):
        row = next(row for row in result.recipes if row.name != result.baseline)
        lines.append(
            f"| {result.task} | {ratio(row.steps_ratio)} | {interval(row.steps_ratio_ci)} | {row.verdict} "
            f"| {number(row.final)} ({interval(row.final_ci, number)}) | {number(row.settings['lr'], 2)} |"
        )
    return lines


def _scores(found: Sequence[Profile]) -> list[str]:
    names = list(found[0].ratios)
    lines = [
        f"| rule | score | 95% over seeds | {' | '.join(names)} |",
        f"|---|---:|---|{'---:|' * len(names)}",
    ]
    return lines + [
        f"| `{p.recipe}` | {p.score:.2f} | {interval(p.score_ci)} | {' | '.join(ratio(p.ratios[n]) for n in names)} |"
        for p in found
    ]


def _versions(results: Sequence[RaceResult]) -> list[str]:
    one = results[0].environment
    about = f"Python {one['python']}, torch {one['torch']}, {one['processor']}, {count(one['threads'], 'thread')}"
    return [f"Made by `python benchmarks/rules_race.py` ({about})."]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page, from the stored races")
    parser.add_argument("--workers", type=int, default=0, help="processes that train at the same time")
    args = parser.parse_args()
    if not args.page:
        for kind, recipes in (("rules", RULES), ("control", CONTROL)):
            for task in TASKS:
                name = f"{kind}-{task}"
                begun = (FOLDER / name / "race.db").exists()
                race(
                    task, recipes, trials=TRIALS, seeds=SEEDS, name=name, out=FOLDER, workers=args.workers, resume=begun
                )
    results = finished()
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    if len(results) == len(TASKS):
        write_image(profile_curves(profiles(results)[:SHOWN], "steps", TAU_MAX), FIGURE)


if __name__ == "__main__":
    main()
