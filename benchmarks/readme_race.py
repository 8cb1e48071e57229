"""The race that the README begins with: its picture and its sentence.

    python benchmarks/readme_race.py            # about three minutes on two cores; the same call goes on where it was
    python benchmarks/readme_race.py --page     # only picture and sentence, from the stored races

It is the race of ``COMMAND``, which the README shows; storage and report stay in ``results/races/readme``. What Muon and AdamW with
two rates need on text comes from the race of the rules (``rules_race.py``).
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from thalweg.race import RaceResult, RecipeResult, race
from thalweg.race.orchestrate import stored_result
from thalweg.report import marked
from thalweg.report.figures import metric_curves, metric_scales, write_image
from thalweg.report.numbers import interval, number, ratio
from thalweg.report.text import listing

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "races"
NAME = "readme"
PAGE = ROOT / "README.md"
FIGURE = ROOT / "docs" / "images" / "race.png"

TASK, STEPS = "digits", 200
RECIPES = ("adamw", "sgd", "lion", "lamb", "muon", "muon + orthogonal")
COMMAND = shlex.join(["thalweg", "race", "--task", TASK, *RECIPES, "--steps", str(STEPS)]).replace("'", '"')


def with_words(page: str) -> str:
    """``page`` with what the stored races say."""
    return marked.with_tables(page, "race", {NAME: _words(stored_result(str(FOLDER / NAME)))})


def _words(result: RaceResult) -> list[str]:
    """What stands under the picture: every rival's verdict, and another task on which Muon is another method."""
    rows = {row.name: row for row in result.recipes}
    verdicts = sorted({row.verdict for name, row in rows.items() if name != result.baseline})
    said = [f"{v}: {listing([_ratio(row) for row in rows.values() if row.verdict == v])}" for v in verdicts]
    text = _rival("rules-docs-lm", "muon")
    rates = _rival("control-docs-lm", "adamw two rates")
    best = max(rows.values(), key=lambda row: row.final or 0.0)
    finals = listing(
        [
            f"`{row.name}` {number(row.final)} ({interval(row.final_ci, number)})"
            for row in (best, rows[result.baseline])
        ]
    )
    return [
        f"*What `{COMMAND}` says of the steps to the target, against a tuned AdamW's:*",
        "",
        *(f"- {line}" for line in said),
        f"- {result.metric_name} at the end: {finals}",
        "",
        f"*On [another model, a byte-level decoder](docs/rules-race.md), `muon` is {text.verdict}: {_times(text)} of AdamW's steps.",
        f"Part of that is its second learning rate, with which AdamW itself needs {_times(rates)}. Each is the answer for one model:",
        "race on yours.*",
    ]


def _ratio(row: RecipeResult) -> str:
    return f"`{row.name}` {_times(row)}"


def _times(row: RecipeResult) -> str:
    return f"{ratio(row.steps_ratio)} ({interval(row.steps_ratio_ci)})"


def _rival(race_name: str, recipe: str) -> RecipeResult:
    rows = stored_result(str(FOLDER / race_name)).recipes
    return next(row for row in rows if row.name == recipe)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only make picture and sentence, from the stored races")
    if not parser.parse_args().page:
        begun = (FOLDER / NAME / "race.db").exists()
        race(TASK, RECIPES, steps=STEPS, name=NAME, out=FOLDER, resume=begun)
    result = stored_result(str(FOLDER / NAME))
    write_image(metric_curves(result, "steps", metric_scales(result)[-1]), FIGURE)
    PAGE.write_text(with_words(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
