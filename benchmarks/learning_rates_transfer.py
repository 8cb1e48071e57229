"""What best learning rates in several settings say about each other, and which suggestions they support.

The *ratio* of a pair of rules is the factor between their best learning rates: the geometric mean over families of tasks of
the geometric mean over each family's settings, so that every family weighs the same. Each family is left out in turn, and the
ratio of the others suggests a learning rate for its settings from the first rule's best one there. How far that is from the best
one, and what it costs, decides whether the pair is supported (:data:`FAMILY_RULE`, written before anything was measured).

As a control, the same is done without looking at the first rule: the geometric mean of the second rule's best learning rates on the
other families. Where that errs no more, the first rule's learning rate adds nothing here, and the table says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from thalweg.report import marked

Curve = Mapping[str, Any]
"""``exponents`` of ten, in order, the ``losses`` there (infinite or None: broken down) and the loss at the ``start``."""

NEAR = 3.0
"""A suggestion within this factor of the best learning rate is near it."""

CHEAP, DEAR, MEAN = 0.01, 0.05, 0.02
"""Shares of what training gains (start to best loss) that a suggestion may cost: without being near; in any setting; on average."""

FAMILY_RULE = (
    f"With each family of tasks left out in turn, the others' ratio suggests a learning rate for its settings. A pair is "
    f"supported if, in every setting, the suggestion is within a factor of {NEAR:g} of the best learning rate or costs at "
    f"most {CHEAP:.0%} of what training gains there, and if it costs at most {DEAR:.0%} in every setting and {MEAN:.0%} on "
    f"average. Every optimum must lie inside its grid. Costs are read off the measured curve, on straight lines over the "
    f"logarithm of the learning rate; a learning rate beyond the curve counts as a training that gains nothing."
)


PENDING = "Not measured yet: `python benchmarks/learning_rates.py` writes this."
"""What stands in the page before the first measurement."""


def losses_of(curve: Curve) -> list[float]:
    """Losses, infinite where training broke down."""
    return [math.inf if loss is None else loss for loss in curve["losses"]]


def inside(curve: Curve) -> bool:
    """Whether the best point has neighbours on both sides."""
    losses = losses_of(curve)
    return 0 < losses.index(min(losses)) < len(losses) - 1


def best_exponent(curve: Curve) -> float:
    """Where the parabola through the best point and its neighbours is lowest.

    The best point itself if it lies at an edge, or beside a training that broke down.
    """
    losses, exponents = losses_of(curve), curve["exponents"]
    place = losses.index(min(losses))
    if not 0 < place < len(losses) - 1 or not all(map(math.isfinite, losses[place - 1 : place + 2])):
        return exponents[place]
    (a, b, c), (fa, fb, fc) = exponents[place - 1 : place + 2], losses[place - 1 : place + 2]
    left, right = (b - a) * (fb - fc), (b - c) * (fb - fa)
    if left == right:
        return b
    return b - ((b - a) * left - (b - c) * right) / (2 * (left - right))


def cost(curve: Curve, exponent: float) -> float:
    """The share of what training gains that is lost at ``10 ** exponent``; at most 1.

    Example:
        >>> cost({"exponents": [-3.0, -2.0, -1.0], "losses": [1.5, 1.0, None], "start": 2.0}, -2.5)
        0.25
    """
    start, exponents = curve["start"], curve["exponents"]
    losses = [min(loss, start) for loss in losses_of(curve)]
    if not exponents[0] <= exponent <= exponents[-1] or min(losses) >= start:
        return 1.0
    for a, b, fa, fb in zip(exponents, exponents[1:], losses, losses[1:], strict=False):
        if exponent <= b:
            share = (exponent - a) / (b - a)
            return ((1 - share) * fa + share * fb - min(losses)) / (start - min(losses))
    raise AssertionError("an exponent within the grid lies between two of its points")


def family_mean(values: Mapping[str, float], families: Mapping[str, str], without: str | None = None) -> float:
    """Mean over families of the mean over their settings; ``without`` leaves one out."""
    names = [f for f in dict.fromkeys(families[setting] for setting in values) if f != without]
    means = []
    for family in names:
        own = [value for setting, value in values.items() if families[setting] == family]
        means.append(math.fsum(own) / len(own))
    return math.fsum(means) / len(means)


def transfer(source: Mapping[str, Curve], target: Mapping[str, Curve], families: Mapping[str, str]) -> dict[str, Any]:
    """What the best learning rates of ``source`` say about those of ``target``.

    Args:
        source, target: curves by name of setting.
        families: the family of each setting.

    Returns:
        ``ratio``; ``spread``, the largest factor by which a setting's ratio differs from it; ``error``, the typical factor
        (root mean square of logarithms) between a left-out family's suggestions and best rates; ``control``, the same without
        looking at the source; ``near``, the number of suggestions within :data:`NEAR`; ``cost`` and ``worst_cost``, mean and largest
        share of the gain lost; ``range`` of the source's best rates; ``supported`` and ``why`` not.
    """
    given = {setting: best_exponent(curve) for setting, curve in source.items()}
    wanted = {setting: best_exponent(target[setting]) for setting in given}
    logs = {setting: wanted[setting] - given[setting] for setting in given}
    errors, control, costs = {}, {}, {}
    for setting in given:
        suggested = given[setting] + family_mean(logs, families, families[setting])
        errors[setting] = suggested - wanted[setting]
        control[setting] = family_mean(wanted, families, families[setting]) - wanted[setting]
        costs[setting] = cost(target[setting], suggested)
    ratio, cents = family_mean(logs, families), math.log10(NEAR)
    why = []
    if edges := [s for s in given if not (inside(target[s]) and inside(source[s]))]:
        why.append(f"{len(edges)} optima lie at the edge of their grid")
    if far := [s for s in given if abs(errors[s]) > cents and costs[s] > CHEAP]:
        why.append(f"suggestions further than a factor of {NEAR:g} from the best: {len(far)} of {len(given)}")
    mean_cost = math.fsum(costs.values()) / len(costs)
    if max(costs.values()) > DEAR or mean_cost > MEAN:
        why.append(
            f"suggestions cost {mean_cost:.1%} of what training gains on average, up to {max(costs.values()):.1%}"
        )
    return {
        "ratio": 10**ratio,
        "spread": 10 ** max(abs(log - ratio) for log in logs.values()),
        "error": _typical(errors),
        "control": _typical(control),
        "near": sum(abs(error) <= cents for error in errors.values()),
        "settings": len(given),
        "cost": mean_cost,
        "worst_cost": max(costs.values()),
        "range": [10 ** min(given.values()), 10 ** max(given.values())],
        "supported": not why,
        "why": "; ".join(why),
    }


def _typical(errors: Mapping[str, float]) -> float:
    return 10 ** math.sqrt(math.fsum(error**2 for error in errors.values()) / len(errors))


def conclusions(curves: Mapping[str, Mapping[str, Curve]], families: Mapping[str, str]) -> dict[str, Any]:
    """Every rule from AdamW, and AdamW from every rule."""
    adamw = curves["adamw"]
    others = {rule: found for rule, found in curves.items() if rule != "adamw"}
    return {
        "adamw": {rule: transfer(adamw, found, families) for rule, found in others.items()},
        **{rule: {"adamw": transfer(found, adamw, families)} for rule, found in others.items()},
    }


def shipped(result: Mapping[str, Any]) -> dict[str, Any]:
    """What ``thalweg.optim.suggest_lr`` reads: ratio, spread, range and, where there is no support, why, of each pair."""
    keys = ("ratio", "spread", "range", "supported", "why")
    pairs = {
        source: {target: {key: _short(found[key]) for key in keys} for target, found in targets.items()}
        for source, targets in result["transfer"].items()
    }
    return {"made_by": result["command"], "settings": len(result["settings"]), "pairs": pairs}


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def with_tables(page: str, result: Mapping[str, Any]) -> str:
    """``page`` with the text between its ``measured`` comments replaced by the tables of ``result``."""
    tables = {
        "rule": [result["rule"]],
        "suggestions": _suggestions(result),
        "optima": _optima(result),
        "settings": _settings(result),
        "versions": [_versions(result)],
    }
    return marked.with_tables(page, "measured", tables)


def _suggestions(result: Mapping[str, Any]) -> list[str]:
    forth = [rule for rule, found in result["transfer"]["adamw"].items() if found["supported"]]
    back = [rule for rule in result["transfer"]["adamw"] if result["transfer"][rule]["adamw"]["supported"]]
    count = len(result["transfer"]["adamw"])
    lines = [
        f"Suggested from AdamW's learning rate, of {count} rules: {', '.join(forth) or 'none'}. "
        f"Rules from whose learning rate AdamW's is suggested: {', '.join(back) or 'none'}.",
        "",
        "| rule | times AdamW's | spread | left-out error | without AdamW's | near | cost | worst | back to AdamW | suggested |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|---|",
    ]
    pairs = result["transfer"]["adamw"]
    for rule in sorted(pairs, key=lambda rule: (not pairs[rule]["supported"], rule)):
        row, back = pairs[rule], result["transfer"][rule]["adamw"]
        answer = "yes" if row["supported"] else "no, an optimum lies at an edge" if "edge" in row["why"] else "no"
        if row["supported"] and row["control"] <= row["error"]:
            answer = "yes, but a fixed learning rate does as well"
        lines.append(
            f"| {rule} | {row['ratio']:.3g} | {row['spread']:.2g} | {row['error']:.2g} | {row['control']:.2g} "
            f"| {row['near']} of {row['settings']} | {row['cost']:.1%} | {row['worst_cost']:.1%} "
            f"| {'yes' if back['supported'] else 'no'} | {answer} |"
        )
    return lines


def _optima(result: Mapping[str, Any]) -> list[str]:
    names = list(result["settings"])
    lines = [f"| rule | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for rule, curves in result["curves"].items():
        rates = [f"{10 ** best_exponent(curves[name]):.2g}" for name in names]
        lines.append(f"| {rule} | {' | '.join(rates)} |")
    return lines


def _settings(result: Mapping[str, Any]) -> list[str]:
    lines = ["| setting | loss at the start | AdamW's best | lowest of all | by |", "|---|---:|---:|---:|---|"]
    for name in result["settings"]:
        best = {rule: min(losses_of(curves[name])) for rule, curves in result["curves"].items()}
        winner = min(best, key=best.__getitem__)
        start = result["curves"]["adamw"][name]["start"]
        lines.append(f"| {name} | {start:.3f} | {best['adamw']:.3f} | {best[winner]:.3f} | {winner} |")
    return lines


def _versions(result: Mapping[str, Any]) -> str:
    env = result["environment"]
    return (
        f"Measured by `{result['command']}` on one core ({env['processor']}), Python {env['python']}, torch {env['torch']}; "
        f"{sum(len(c['losses']) for curves in result['curves'].values() for c in curves.values())} trainings."
    )
