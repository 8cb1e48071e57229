"""Every page of the site."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from thalweg.catalog.paper import SEAMS, Paper
from thalweg.report.claim_figure import charts, compose, inline, thumbnail
from thalweg.report.claim_series import band_words
from thalweg.report.pages import page_environment, source
from thalweg.report.site import reference, tables
from thalweg.report.site.badges import BADGES, NONE
from thalweg.report.site.entries import Check, Entry, entries, related
from thalweg.report.site.feed import atom
from thalweg.report.site.folder import replaced
from thalweg.report.site.races import Race
from thalweg.report.site.search_data import search_script

STREAM = ("init", "data", "nn", "adapt", "objective", "optim", "grow", "compress")
"""Seams along a training run, in its order; the others stand beside it."""

PHENOMENA = ("grokking", "double descent", "in-context learning", "implicit bias", "sharpness", "over-parametrization",
             "learning dynamics", "inductive bias", "sample complexity")  # fmt: skip
"""Topics that the gallery filters by."""

_STATUSES = {"checked": "with a verdict", "implemented": "implemented", "planned": "planned"}


@dataclass(frozen=True)
class Built:
    """What was built.

    Args:
        out: the folder.
        papers, verdicts, races: how many of each it shows.
        pages, size: HTML pages, and the bytes of all files.
        seconds: how long it took.
    """

    out: Path
    papers: int
    verdicts: int
    races: int
    pages: int
    size: int
    seconds: float


@dataclass(frozen=True)
class _Drawn:
    """A figure as its page shows it."""

    title: str
    svg: Markup


def build(
    out: Path,
    papers: Mapping[str, Paper],
    results: Iterable[Check],
    races: Sequence[Race] = (),
    claims: Collection[str] = (),
) -> Built:
    """Write the site into ``out``: static pages that need no server, no network and no JavaScript to be read.

    It is built beside ``out`` and then takes its place, so that nobody sees half of it.

    Args:
        out: the folder; it may hold an older site, and must hold nothing else.
        papers: the catalogue, by slug.
        results: finished checks with their claims' panels; of several scales the largest counts.
        races: finished races whose reports are shown too.
        claims: papers whose claim can be run, whether there is a result or not.

    Raises:
        SiteError: ``out`` holds something else, or can't be written.
        ValueError: an entry names what doesn't exist, or a result belongs to no paper.
    """
    start = time.perf_counter()
    listed = entries(papers, results)
    with replaced(out) as part:
        _write(part, listed, races, claims)
        files = [path for path in part.rglob("*") if path.is_file()]
        pages, size = sum(path.suffix == ".html" for path in files), sum(path.stat().st_size for path in files)
    verdicts = sum(entry.result is not None for entry in listed)
    return Built(out, len(listed), verdicts, len(races), pages, size, time.perf_counter() - start)


def _write(part: Path, listed: Sequence[Entry], races: Sequence[Race], claims: Collection[str]) -> None:
    environment = _environment(listed)
    for name in ("papers", "figures", "assets", "races", reference.FOLDER):
        (part / name).mkdir()

    def page(path: str, template: str, **context: Any) -> None:
        root = "../" * path.count("/")
        text = environment.get_template(f"site/{template}").render(root=root, page=path, **context)
        (part / path).write_text(text, encoding="utf-8", errors="replace")

    for name in ("style.css", "site/site.css", "site/api.css", "site/site.js"):
        (part / "assets" / name.rpartition("/")[2]).write_text(source(environment, name), encoding="utf-8")
    (part / "assets" / "papers.js").write_text(search_script(listed), encoding="utf-8")
    (part / "feed.xml").write_text(atom(listed), encoding="utf-8")
    page("index.html", "index.html", entries=listed, facets=_facets(listed))
    found = [entry for entry in listed if entry.checks]
    waiting = [entry for entry in listed if not entry.checks and entry.paper.seam == "phenomena"]
    counts = Counter(topic for entry in found for topic in entry.paper.topics)
    phenomena = [(name, counts[name]) for name in PHENOMENA if counts[name]]
    page("findings.html", "findings.html", entries=found, waiting=waiting, phenomena=phenomena)
    page("verdicts.html", "verdicts.html", counts=_verdict_counts(listed))
    page("races.html", "races.html", races=races)
    for race in races:
        shutil.copyfile(race.report, part / "races" / race.page)
    for i, entry in enumerate(listed):
        slug = entry.paper.slug
        figures = _figures(part, entry)
        neighbours = {"newer": listed[i - 1] if i else None, "older": listed[i + 1] if i + 1 < len(listed) else None}
        page(f"papers/{slug}.html", "paper.html", entry=entry, figures=figures, related=related(entry, listed),
             runnable=slug in claims, **neighbours)  # fmt: skip
    reference.write(page, listed)


def _figures(part: Path, entry: Entry) -> list[_Drawn]:
    """Write the whole figure and its thumbnail; give the panels for the page."""
    if not entry.checks or not entry.checks[0].panels:
        return []
    check = entry.checks[0]
    drawn = charts(check.result, check.panels)
    folder, slug = part / "figures", entry.paper.slug
    (folder / f"{slug}.svg").write_text(compose(check.result, drawn), encoding="utf-8")
    (folder / f"{slug}-small.svg").write_text(thumbnail(drawn[0]), encoding="utf-8")
    return [_Drawn(chart.title, inline(chart, f"figure-{i}")) for i, chart in enumerate(drawn, 1)]


def _environment(listed: Sequence[Entry]) -> jinja2.Environment:
    environment = page_environment()
    environment.globals.update(
        seams=SEAMS,
        stream=STREAM,
        badges=(*BADGES, NONE),
        counts=_overview(listed),
        tables=tables,
        band_words=band_words,
    )
    return environment


def _overview(listed: Sequence[Entry]) -> dict[str, int]:
    """How many papers there are, how many of them implemented, how many with a verdict."""
    return {
        "papers": len(listed),
        "implemented": sum(entry.implemented for entry in listed),
        "checked": sum(entry.result is not None for entry in listed),
    }


def _verdict_counts(listed: Sequence[Entry]) -> Counter[str]:
    return Counter(entry.badge.key for entry in listed)


def _facets(listed: Sequence[Entry]) -> dict[str, list[tuple[str, str, int]]]:
    """What each filter offers: key, name and number of papers; only what occurs."""
    seams = Counter(entry.paper.seam for entry in listed)
    statuses = Counter(status for entry in listed for status in entry.status)
    verdicts = _verdict_counts(listed)
    topics = Counter(topic for entry in listed for topic in entry.paper.topics)
    return {
        "seam": [(key, key, seams[key]) for key in SEAMS if seams[key]],
        "status": [(key, name, statuses[key]) for key, name in _STATUSES.items() if statuses[key]],
        "verdict": [(badge.key, badge.word, verdicts[badge.key]) for badge in (*BADGES, NONE) if verdicts[badge.key]],
        "topic": [(topic, topic, topics[topic]) for topic in sorted(topics)],
    }
