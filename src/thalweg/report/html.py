"""The report of a race: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from thalweg.race.records import RaceResult, RecipeResult
from thalweg.report import numbers
from thalweg.report.canvas import Plot
from thalweg.report.failures import failures
from thalweg.report.figures import all_figures
from thalweg.report.order import ordered
from thalweg.report.pages import page_environment, source
from thalweg.report.palette import marks
from thalweg.report.search import written
from thalweg.report.svg import hover_data, inline_svg
from thalweg.report.text import clean, count, shorten
from thalweg.report.trajectories import band_words
from thalweg.report.words import answers, headline, interval_name, method_points, target_text

_SCALE_NAMES = {"linear": "Linear", "log": "Log", "logit": "Logit"}


@dataclass(frozen=True)
class Drawing:
    """One way to draw a plot on the page."""

    scale: str
    svg: Markup
    hover: str


@dataclass(frozen=True)
class Panel:
    """One plot of the page, in one or several scales."""

    key: str
    title: str
    note: str
    drawings: list[Drawing]


def write_report(result: RaceResult, path: str | os.PathLike[str]) -> Path:
    """Write the report of ``result`` as one self-contained HTML file.

    The file asks for nothing over the network, works without JavaScript, and escapes every text that it shows. It is written
    beside its place and then renamed, so that a reader never sees half of it and a full disk leaves the old one as it was.

    Args:
        result: the race.
        path: the file to write; its folder has to exist.

    Returns:
        The path.

    Raises:
        OSError: the file can't be written.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    page = render_report(result).encode("utf-8", errors="replace")
    try:
        with part.open("wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def render_report(result: RaceResult) -> str:
    """The page as text."""
    environment = page_environment()
    environment.filters["written"] = written
    panels = _panels(all_figures(result))
    script = source(environment, "report.js")
    return environment.get_template("race.html").render(
        result=result,
        style=Markup(source(environment, "style.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline=headline(result),
        facts=_facts(result),
        answers=answers(result),
        rows=ordered(result),
        interval_name=interval_name(result),
        marks=marks(result),
        curves=[p for p in panels if p.key.startswith(("metric-", "train-loss"))],
        final=[p for p in panels if p.key == "final-metric"],
        forests=[p for p in panels if p.key.endswith("-ratio")],
        costs=[p for p in panels if p.key in ("step-time", "memory")],
        tunings=[p for p in panels if p.key.startswith("tuning-")],
        band_words=band_words(result),
        method=method_points(result),
        settings=_setting_names(result.recipes),
        failures=failures(result),
        environment=_environment(result),
        command=_command(result.environment),
    )


def _panels(plots: Sequence[Plot]) -> list[Panel]:
    """Plots that differ in their scale alone belong to one panel."""
    panels: dict[str, Panel] = {}
    for plot in plots:
        stem, _, scale = plot.key.rpartition("-")
        key, name = (stem, _SCALE_NAMES[scale]) if scale in _SCALE_NAMES else (plot.key, "")
        panel = panels.setdefault(key, Panel(key, plot.title, plot.note, []))
        panel.drawings.append(Drawing(name, inline_svg(plot), hover_data(plot)))
    return list(panels.values())


def _facts(result: RaceResult) -> list[str]:
    """The line below the headline."""
    seeds = max((row.seeds for row in result.recipes), default=0)
    trials = max((row.trials for row in result.recipes), default=0)
    budget = [count(result.budget["steps"], "step")] if isinstance(result.budget.get("steps"), int) else []
    if numbers.finite(result.budget.get("seconds")):
        budget = [numbers.duration(result.budget["seconds"]) + " of training"]
    return [
        count(len(result.recipes), "recipe") + f", baseline {shorten(result.baseline, 40)}",
        count(trials, "tuning trial") + " each",
        count(seeds, "fresh paired seed"),
        *(f"at most {text}" for text in budget),
        "target " + target_text(result),
    ]


def _setting_names(rows: Sequence[RecipeResult]) -> list[str]:
    """Every tuned setting, those of most recipes first."""
    names = [key for row in rows for key in row.settings]
    return sorted(dict.fromkeys(names), key=lambda key: -names.count(key))


def _environment(result: RaceResult) -> list[tuple[str, str]]:
    """Budget, seeds, versions and machine as pairs of text."""
    pairs = [("race", clean(result.name)), *flat("budget", result.budget)]
    for phase, label in (("tune", "tuning seeds"), ("fresh", "fresh seeds")):
        seeds = sorted({run.seed for run in result.runs if run.phase == phase})
        if seeds:
            pairs.append((label, ", ".join(map(str, seeds[:40])) + (", …" if len(seeds) > 40 else "")))
    pairs += [pair for key, value in result.environment.items() if key != "command" for pair in flat(key, value)]
    return pairs


def flat(key: str, value: Any) -> list[tuple[str, str]]:
    """A value as pairs of name and text, one for each of its parts."""
    if isinstance(value, Mapping):
        return [pair for inner, item in value.items() for pair in flat(f"{key} · {inner}", item)]
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return [(clean(key).replace("_", " "), clean(value))]


def _command(environment: Mapping[str, Any]) -> str:
    """The command line, if the race was started by one."""
    command = environment.get("command") or ""
    return clean(shlex.join(map(str, command)) if isinstance(command, list | tuple) else command)
