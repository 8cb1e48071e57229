"""What a race says, in sentences: the answer of each recipe, and how the comparison was made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from thalweg.race.records import RaceResult, RecipeResult
from thalweg.report.numbers import duration, finite, interval, number, ratio, steps
from thalweg.report.order import ordered
from thalweg.report.text import clean, count, listing, shorten

FALSE_WORDS = {
    "steps": {False: (0.0165, 0.054, 0.0648), True: (0.0, 0.0425, 0.0523)},
    "seconds": {False: (0.0285, 0.0495, 0.0599), True: (0.0015, 0.0475, 0.0577)},
}
"""How many races between equals used a false word, by the kind of budget, with one recipe beside the baseline and with five: the
smallest and the largest rate over numbers of seeds and spacings of evaluations, and the largest upper end of their 95% intervals.

From ``benchmarks/results/calibration.json``; a test holds them together."""

_NAMED = 3
"""Up to so many recipes a headline names; more are counted."""


@dataclass(frozen=True)
class Answer:
    """One recipe's answer."""

    name: str
    verdict: str
    sentence: list[tuple[str, bool]]
    """Pieces of the sentence, and whether each is a number that a reader looks for."""
    aside: str = ""


def headline(result: RaceResult) -> str:
    """The race in one sentence.

    It uses the verdicts alone: a recipe is called faster or slower only where its row says so.
    """
    others = [row for row in ordered(result) if row.name != result.baseline]
    base = shorten(result.baseline, 40)
    if not others:
        return f"{base} ran alone: there is nothing to compare."
    parts: list[str] = []
    for verdict in ("faster", "slower"):
        names = [row.name for row in others if row.verdict == verdict]
        if names:
            than = f" than {base}" if not parts else ""
            parts.append(f"{_named(names)} {'is' if len(names) == 1 else 'are'} {verdict}{than}")
    open_ = [row.name for row in others if row.verdict == "no difference shown"]
    if open_ and not parts:
        parts.append(f"no difference from {base} was shown for {_named(open_)}")
    elif open_:
        parts.append(f"no difference was shown for {_named(open_)}")
    few = [row.name for row in others if row.verdict == "too few seeds"]
    if few:
        parts.append(f"too few seeds for a verdict on {_named(few)}")
    lost = [row.name for row in ordered(result) if row.verdict == "failed"]
    if lost:
        parts.append(f"no run of {_named(lost)} finished")
    none = [row for row in others if row.verdict == "no comparison"]
    if none:
        parts.append(f"{_named([row.name for row in none])} can’t be compared with {base}: {clean(none[0].reason)}")
    text = "; ".join(parts)
    return (text[0].upper() + text[1:] if text.startswith(("no ", "too ")) else text) + "."


def answers(result: RaceResult) -> list[Answer]:
    """One sentence a recipe, in the order of the report."""
    return [_answer(row, result) for row in ordered(result)]


def reasons(result: RaceResult) -> list[str]:
    """Why ratios are missing, a line for each reason with the recipes that it holds for."""
    found: dict[str, list[str]] = {}
    for row in ordered(result):
        if row.reason:
            found.setdefault(clean(row.reason), []).append(row.name)
    return [f"{_named(names)}: {reason}" for reason, names in found.items()]


def target_text(result: RaceResult) -> str:
    """The target as a condition on the metric."""
    if not math.isfinite(result.target):
        return f"no target for {clean(result.metric_name)}"
    return f"{clean(result.metric_name)} {'≤' if result.goal == 'min' else '≥'} {number(result.target, 4, pad=False)}"


def method_points(result: RaceResult) -> list[tuple[str, str]]:
    """How the comparison was made: short headings with a paragraph each, from what the records say."""
    return [
        ("Equal tuning", _tuning(result)),
        ("Fresh, paired seeds", _seeds(result)),
        ("What is timed", _timing(result)),
        ("Ratios and intervals", _intervals(result)),
        ("The words", _verdicts(result)),
        ("Runs that never got there", _censoring(result)),
        (
            "What this doesn’t say",
            "The result holds for this model, this data, this budget and this machine. “No difference shown” means that "
            "these seeds could not tell the recipes apart; it does not mean that they are equal.",
        ),
    ]


def _named(names: list[str]) -> str:
    return listing([shorten(name, 40) for name in names]) if len(names) <= _NAMED else f"{len(names)} recipes"


def _answer(row: RecipeResult, result: RaceResult) -> Answer:
    if row.name == result.baseline:
        return Answer(clean(row.name), "baseline", _baseline_sentence(row, result), _aside(row))
    pieces: list[tuple[str, bool]] = []
    ratios = [
        (row.steps_ratio, row.steps_ratio_ci, "steps"),
        (row.seconds_ratio, row.seconds_ratio_ci, "seconds"),
    ]
    for value, bounds, unit in ratios if result.decides == "steps" else reversed(ratios):
        if value is None or math.isnan(value):
            continue
        span = interval(bounds)
        pieces.append((" and " if pieces else "Needs ", False))
        pieces.append((f"{ratio(value)} × the {unit}", True))
        name = "" if len(pieces) > 2 else "95% interval " if _compared(result) == 1 else "interval "
        pieces.append((f" ({name}{span})" if span else "", False))
    if pieces:
        pieces.append((f"; {clean(row.reason)}." if row.reason else ".", False))
    elif row.reason:
        pieces.append((f"No comparison: {clean(row.reason)}.", False))
    elif row.seeds and row.diverged + row.failed >= row.seeds:
        pieces.append((f"No comparison: none of its {count(row.seeds, 'fresh run')} finished.", False))
    else:
        pieces.append(("No comparison with the baseline could be made.", False))
    return Answer(clean(row.name), row.verdict, pieces, _aside(row))


def _baseline_sentence(row: RecipeResult, result: RaceResult) -> list[tuple[str, bool]]:
    if row.reason:
        return [(f"Nothing can be compared with it: {clean(row.reason)}.", False)]
    if not finite(row.steps_to_target):
        return [(f"Its median run did not reach the target ({target_text(result)}).", False)]
    pieces = [(f"Reaches {target_text(result)} in ", False), (f"{steps(row.steps_to_target)} steps", True)]
    if finite(row.seconds_to_target):
        pieces += [(" and ", False), (duration(row.seconds_to_target), True), (" of training", False)]
    return [*pieces, (f", the median of {count(row.seeds, 'seed')}." if row.seeds > 1 else ".", False)]


def _aside(row: RecipeResult) -> str:
    """What a reader has to know beside the ratio."""
    parts = []
    if row.seeds and row.reached < row.seeds:
        reached = f"{row.reached} of {count(row.seeds, 'run')} reached the target"
        parts.append(f"{reached}; the rest count as needing the whole budget")
    if row.diverged:
        parts.append(f"{row.diverged} diverged")
    if row.failed:
        parts.append(f"{row.failed} failed")
    text = ", ".join(parts)
    return text[0].upper() + text[1:] + "." if text else ""


def _tuning(result: RaceResult) -> str:
    trials = sorted({row.trials for row in result.recipes})
    if not trials or trials[-1] <= 1:
        return "No recipe was tuned: each ran with one setting, so the ratios compare these settings, not the methods."
    most = max(row.trials for row in result.recipes)
    per = sorted({len(result.runs_of(row.name, "tune")) / row.trials for row in result.recipes if row.trials > 1})
    text = (
        f"Every recipe, the baseline included, was given {count(most, 'setting')} to try: its published default first, "
    )
    text += (
        "then points of one quasi-random (Sobol) sequence over its search space, with the same sampler seed for all, "
        "or evenly spaced ones where it has a single number to tune."
    )
    if per and per[0] == per[-1] and per[0] > 1:
        text += f" Each setting was trained on {number(per[0], 2, pad=False)} tuning seeds."
    fewer = [f"{shorten(row.name, 40)} ({row.trials})" for row in result.recipes if row.trials < most]
    if fewer:
        text += f" Fewer were tried by {listing(fewer)}: recipes with nothing to tune need one."
    edge = [f"{shorten(row.name, 40)} ({', '.join(map(clean, row.edges))})" for row in result.recipes if row.edges]
    if edge:
        text += f" The best setting lies at the edge of the searched range for {listing(edge)}, so a wider range might do better."
    return text


def _seeds(result: RaceResult) -> str:
    fresh = {row.name: {run.seed for run in result.runs_of(row.name, "fresh")} for row in result.recipes}
    tuned = {run.seed for run in result.runs if run.phase == "tune"}
    everyone = sorted(set().union(*fresh.values())) if fresh else []
    if not everyone:
        return "No fresh run is on record."
    shown = ", ".join(map(str, everyone[:20])) + (", …" if len(everyone) > 20 else "")
    text = f"The best setting of each recipe was then trained again from {count(len(everyone), 'new seed')} ({shown})."
    overlap = sorted(tuned & set(everyone))
    if overlap:
        text += f" Note: tuning used {listing(list(map(str, overlap)))} too, which favours what was tuned on luck."
    elif tuned:
        text += " None of them was used in tuning."
    if all(seeds == set(everyone) for seeds in fresh.values()):
        text += " Every recipe ran on the same seeds, and is compared with the baseline seed by seed. "
        text += "Runs of one seed follow each other in time, and the recipe that goes first changes from seed to seed."
    else:
        text += " Not every recipe has a run on each of them; ratios use the seeds that both sides have."
    return text


def _timing(result: RaceResult) -> str:
    text = f"The target is {target_text(result)}"
    text += f": {clean(result.target_rule).rstrip('.')}." if result.target_rule else "."
    return (
        text
        + " Where a noisy curve crosses one value is partly luck, so two runs are compared at several marks on the way: "
        "where a half, a quarter, an eighth and so on of the improvement from the start is still missing, and at the target. "
        "Times between two evaluations are interpolated on the best value so far. Seconds count training steps only; "
        "evaluations and set-up, such as scoring examples to choose among them, are left out."
    )


def _intervals(result: RaceResult) -> str:
    text = (
        "A ratio is a recipe’s steps (or seconds) over the baseline’s on the same seed: the geometric mean over the marks, then "
        "over the seeds. Below 1 is better. Its interval is Student’s, from how much the log ratios differ between seeds, with "
        "a standard deviation of at least 0.05, so that a few seeds that agree by chance don’t make it too narrow."
    )
    if result.decides == "steps":
        return text
    return (
        f"{text} The budget was in seconds, so a recipe with slower steps took fewer of them, and how many it would have needed "
        "isn’t known where the clock ended a run before the target: there no ratio of steps is given."
    )


def _verdicts(result: RaceResult) -> str:
    text = f"“Faster” means that the whole interval of the {result.decides} ratio lies below 1, “slower” that it lies above; the "
    text += "point in its middle decides nothing."
    if several := _compared(result) > 1:
        text += f" {_compared(result)} recipes are compared with one baseline, so the intervals are widened by Holm’s method: "
        text += "each has a nominal level of at least 95%, and any false word a nominal chance of 5%."
    else:
        text += " It is a 95% interval, so a false word has a nominal chance of 5%."
    low, high, most = FALSE_WORDS[result.decides][several]
    text += f" Measured on one task with a budget in {result.decides} and 3 to 8 seeds" + (
        ", for five equal copies" if several else ""
    )
    text += f", it was {low:.1%} to {high:.1%}, and with the measurement’s own error up to {most:.1%}."
    return text + " With fewer than 3 seeds no word is given. “Failed” means that no fresh run finished."


def interval_name(result: RaceResult) -> str:
    """What the intervals are called: those of several recipes are wider than 95%."""
    return "interval of at least 95%" if _compared(result) > 1 else "95% interval"


def _compared(result: RaceResult) -> int:
    return sum(row.name != result.baseline for row in result.recipes)


def _censoring(result: RaceResult) -> str:
    short = [
        f"{shorten(row.name, 40)} ({row.reached} of {row.seeds})" for row in result.recipes if row.reached < row.seeds
    ]
    rule = (
        "A run that does not reach the target is not dropped: it counts as needing the whole budget at every mark that it "
        "missed, and never as faster than a run that arrived. A run that diverged or failed counts as having missed them all. "
        "Where neither a recipe nor the baseline arrives on a seed, that seed says nothing and is left out."
    )
    if not short:
        return rule + " Here every fresh run reached it."
    rest = "; every run of the other recipes" if len(short) < len(result.recipes) else ""
    return f"{rule} Runs that reached it: {listing(short)}{rest}."
