"""What a paper's page says of a result: numbers over seeds, the rule, versions and machine."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import dataclass

from thalweg.claims.engine.contract import Result
from thalweg.report.html import flat
from thalweg.report.numbers import number
from thalweg.report.text import clean

MOST_SEEDS = 8
"""Up to so many seeds have a column each."""


@dataclass(frozen=True)
class NumberRow:
    """One named number over the seeds."""

    name: str
    median: str
    low: str
    high: str
    each: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """One paragraph of a rule; ``mark`` is "1.", "-" or the like where it is an item of a list."""

    mark: str
    text: str


def number_rows(result: Result) -> list[NumberRow]:
    """One row a number; a seed that lacks it shows a dash."""
    names = dict.fromkeys(name for measurement in result.measurements for name in measurement.numbers)
    rows = []
    for name in names:
        values = [measurement.numbers.get(name, math.nan) for measurement in result.measurements]
        given = sorted(value for value in values if not math.isnan(value))
        each = tuple(map(_written, values)) if len(values) <= MOST_SEEDS else ()
        median, low, high = map(_written, (_median(given), given[0], given[-1]) if given else (math.nan,) * 3)
        rows.append(NumberRow(clean(name).replace("_", " "), median, low, high, each))
    return rows


def rule_blocks(text: str) -> list[Block]:
    """The paragraphs and list items of a rule, which is written in lines of a source file."""
    blocks: list[Block] = []
    inside = False
    for line in clean(text).splitlines():
        found = re.match(r"\s*(\d+\.|[-*•]|\([a-z\d]+\))\s+(.*)", line)
        words = " ".join(line.split())
        if not words:
            inside = False
        elif found:
            blocks.append(Block(found[1], found[2].strip()))
            inside = True
        elif inside and (not blocks[-1].mark or line[:1].isspace()):
            blocks[-1] = Block(blocks[-1].mark, f"{blocks[-1].text} {words}")
        else:
            blocks.append(Block("", words))
            inside = True
    return blocks


def circumstances(result: Result) -> list[tuple[str, str]]:
    """Seeds, versions and machine as pairs of text."""
    seeds = ", ".join(map(str, result.seeds[:40])) + (", …" if len(result.seeds) > 40 else "")
    pairs = [("scale", clean(result.scale)), ("seeds", seeds)]
    for part in (result.versions, result.machine):
        pairs += [pair for key, value in part.items() for pair in flat(key, value)]
    if result.claim_sha256:
        pairs.append(("claim file (SHA-256)", clean(result.claim_sha256)[:16] + "…"))
    return pairs


def chosen(result: Result) -> list[tuple[str, str]]:
    """The settings that were chosen before, on other seeds."""
    return [pair for key, value in (result.chosen or {}).items() for pair in flat(key, value)]


def first_sentence(text: str) -> str:
    """The text up to the first full stop that a capital letter follows.

    Example:
        >>> first_sentence("It takes 0.5 s, i.e. little. Others take more.")
        'It takes 0.5 s, i.e. little.'
    """
    return re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!vs\.)\s+(?=[A-Z])", " ".join(text.split()), maxsplit=1)[0]


def _median(values: list[float]) -> float:
    """The median; between infinite ones the smaller, so that it is a number."""
    middle = statistics.median(values)
    return statistics.median_low(values) if math.isnan(middle) else middle


def _written(value: float) -> str:
    return number(value, 6 if math.isfinite(value) and value == int(value) else 4, pad=False)
