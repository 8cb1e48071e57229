"""The race as a table in the terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from thalweg.race.records import RaceResult, RecipeResult
from thalweg.report.numbers import MISSING, duration, interval, number, ratio, size
from thalweg.report.order import ordered
from thalweg.report.text import clean
from thalweg.report.words import interval_name, reasons, target_text

_STYLES = {"faster": "green", "slower": "red", "failed": "red", "baseline": "dim"}


WIDE = 110
"""Columns of a terminal from which all figures fit side by side."""


def race_table(result: RaceResult, width: int = WIDE) -> Table:
    """One row a recipe: verdict, ratios with intervals, final metric, step time, memory, and what went wrong.

    Below it stands why a ratio is missing, where one is.

    Every cell is a :class:`rich.text.Text`, so that brackets in a recipe's name are not taken for markup.

    Args:
        result: the race.
        width: columns of the terminal; a narrow one gets verdict, ratios and failures only (the report has the rest).
    """
    title = Text(f"{clean(result.task)}: {target_text(result)}", style="bold")
    caption = Text(f"ratios against {clean(result.baseline)}, below 1 is better ({interval_name(result)})", style="dim")
    if result.decides == "seconds":
        caption.append("; verdicts from seconds, the budget's unit")
    for reason in reasons(result):
        caption.append(f"\n{reason}")
    headings = [
        "steps ratio",
        "seconds ratio",
        f"final {clean(result.metric_name)}",
        "step",
        "peak memory",
        "state",
        "failed",
    ]
    if width < WIDE:
        headings = headings[:2] + headings[-1:]
    table = Table(title=title, caption=caption)
    table.add_column("recipe", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for heading in headings:
        table.add_column(Text(heading), justify="right")
    for row in ordered(result):
        cells = _cells(row)
        table.add_row(*(cells if width >= WIDE else [*cells[:4], cells[-1]]))
    return table


def _cells(row: RecipeResult) -> list[Text]:
    bad = ", ".join(f"{n} {word}" for n, word in ((row.diverged, "diverged"), (row.failed, "failed")) if n)
    texts = [
        _with_interval(ratio(row.steps_ratio), interval(row.steps_ratio_ci)),
        _with_interval(ratio(row.seconds_ratio), interval(row.seconds_ratio_ci)),
        _with_interval(number(row.final), interval(row.final_ci, number)),
        duration(row.step_seconds),
        size(row.peak_memory_bytes),
        size(row.state_bytes),
    ]
    style = _STYLES.get(row.verdict, "")
    return [
        Text(clean(row.name)), Text(row.verdict, style=style), *map(Text, texts),
        Text(bad or MISSING, style="red" if bad else "dim"),
    ]  # fmt: skip


def _with_interval(value: str, span: str) -> str:
    return f"{value} ({span})" if span else value
