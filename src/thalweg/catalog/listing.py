"""The reading list as rows and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from thalweg.catalog.paper import SEAMS, Paper
from thalweg.catalog.search import Hit
from thalweg.catalog.status import status
from thalweg.registry import unknown

STYLES = {
    "reproduced": "green",
    "partly": "yellow",
    "not reproduced at this scale": "red",
    "not testable at this scale": "magenta",
    "needs an accelerator": "magenta",
}
"""Verdicts and their colours."""

WORDS = ("planned", "implemented", *STYLES)


def rows(
    papers: Mapping[str, Paper],
    results: Path,
    *,
    seam: str | None = None,
    word: str | None = None,
    topic: str | None = None,
) -> list[dict[str, Any]]:
    """Papers with their status, in the order of the catalogue, as plain data.

    Args:
        papers: the catalogue.
        results: folder of results.
        seam: only papers of one seam.
        word: only papers of one status or verdict, see :data:`WORDS`; the beginning of one is enough ("not repro").
        topic: only papers with a topic that holds this text.

    Raises:
        ValueError: no such seam, status or topic.
    """
    if seam is not None and seam not in SEAMS:
        raise ValueError(unknown("seam", seam, SEAMS))
    wanted = None if word is None else _whole(word)
    found = list(papers.values())
    if topic is not None:
        found = [paper for paper in found if any(topic.lower() in known for known in paper.topics)]
        if not found:
            raise ValueError(_no_topic(topic, papers.values()))
    made = [row(paper, results) for paper in found if seam in (None, paper.seam)]
    return [r for r in made if wanted is None or wanted in (r["status"], r["verdict"])]


def row(paper: Paper, results: Path) -> dict[str, Any]:
    """One paper with its status as plain data."""
    found = status(paper, results)
    data = dataclasses.asdict(paper) | {"topics": list(paper.topics), "implements": list(paper.implements)}
    verdict = {"verdict": found.verdict or None, "because": found.because or None}
    verdict |= {"explained_by": found.explained_by or None, "scale": found.scale or None}
    finding = paper.finding_for(found.verdict) or None
    return {**data, "url": paper.url, "status": found.word, **verdict, "finding": finding}


def papers_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Papers as a table, a line each."""
    planned = sum(r["status"] == "planned" for r in found)
    checked = sum(r["verdict"] is not None for r in found)
    counts = f"{len(found)} papers: {len(found) - planned} implemented, {planned} planned; {checked} with a verdict"
    table = Table(title="Reading list", caption=f"{counts}. One of them: thalweg show SLUG")
    table.add_column("slug", no_wrap=True)
    table.add_column("year")
    table.add_column("acts on", no_wrap=True)
    table.add_column("title", overflow="fold")
    table.add_column("status", no_wrap=True)
    for r in found:
        texts = (r["slug"], str(r["year"]), r["seam"], r["title"])
        table.add_row(*map(Text, texts), _status(r))
    return table


def paper_text(r: Mapping[str, Any], checkable: bool) -> Text:
    """One paper on a page of the terminal: what it is, what it claims, how far it has come, and how to use it."""
    text = Text()
    text.append(f"{r['title']}\n", style="bold")
    about = f"{r['year']} · {r['seam']}: {SEAMS[r['seam']]} · {r['kind']}"
    text.append(f"{' · '.join(filter(None, [about, r['url']]))}\n", style="dim")
    text.append(f"\n{r['summary']}\n\n")
    text.append("Claim   ", style="bold").append(f"{r['claim']}\n")
    if r["finding"]:
        text.append("Found   ", style="bold").append(f"{r['finding']}\n")
    text.append("Status  ", style="bold").append(_status(r))
    if r["because"]:
        text.append(f" at {r['scale']} scale. {r['because']}")
    if r["explained_by"]:
        text.append(f" Explained by {r['explained_by']}.")
    text.append("\n")
    if r["topics"]:
        text.append("Topics  ", style="bold").append(f"{', '.join(r['topics'])}\n")
    for i, path in enumerate(r["implements"]):
        module, _, name = path.rpartition(".")
        text.append("        " if i else "Use     ", style="bold").append(
            f"from {module} import {name}\n", style="cyan"
        )
    if checkable:
        text.append("Check   ", style="bold").append(f"thalweg check {r['slug']}\n", style="cyan")
    return text


def hits_table(query: str, hits: Iterable[Hit], way: str) -> Table:
    """What a search found, the nearest first; says which way it searched."""
    table = Table(title=Text(query), caption=f"searched by {way}; more of one: thalweg show SLUG")
    table.add_column("nearness", justify="right")
    table.add_column("slug", no_wrap=True)
    table.add_column("acts on", no_wrap=True)
    table.add_column("title and claim", overflow="fold")
    for hit in hits:
        what = Text(f"{hit.paper.title}\n").append(hit.paper.claim, style="dim")
        table.add_row(f"{hit.score:.2f}", Text(hit.paper.slug), hit.paper.seam, what)
    return table


def hit_row(hit: Hit) -> dict[str, Any]:
    """A found paper as plain data."""
    return {"slug": hit.paper.slug, "score": round(hit.score, 4), "title": hit.paper.title, "year": hit.paper.year,
            "seam": hit.paper.seam, "claim": hit.paper.claim, "url": hit.paper.url}  # fmt: skip


def _status(r: Mapping[str, Any]) -> Text:
    word: str = r["verdict"] or r["status"]
    return Text(word, style=STYLES.get(word, "" if r["status"] == "implemented" else "dim"))


def _whole(word: str) -> str:
    """The status that begins with ``word``."""
    text = " ".join(word.lower().replace("-", " ").replace("_", " ").split())
    begun = [known for known in WORDS if known.startswith(text)]
    if len(begun) != 1 and text not in WORDS:
        raise ValueError(unknown("status", word, WORDS))
    return text if text in WORDS else begun[0]


def _no_topic(topic: str, papers: Iterable[Paper]) -> str:
    import difflib

    known = sorted({known for paper in papers for known in paper.topics})
    near = difflib.get_close_matches(topic.lower(), known, 3, 0.5)
    hint = f"; near it are {', '.join(map(repr, near))}" if near else ""
    return f'no paper has a topic with {topic!r}{hint} (thalweg search "{topic}" finds by meaning)'
