"""The Atom feed of verdicts, newest first."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree

from thalweg.claims.engine.contract import Result
from thalweg.report.site.entries import Entry, moment_of
from thalweg.report.text import clean

ATOM = "http://www.w3.org/2005/Atom"
MOST = 50
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""When a feed without entries was last updated: a fixed date, so that the same list always gives the same file."""


def atom(entries: Sequence[Entry]) -> str:
    """The feed's text; a verdict without a date is not in it.

    An id depends on paper, scale and word alone: the same verdict after a rerun is the same entry, a changed one is new.
    """
    ElementTree.register_namespace("", ATOM)
    dated = [(moment, entry, entry.result) for entry in entries if entry.result and (moment := moment_of(entry.result))]
    dated.sort(key=lambda item: (item[0], item[1].paper.slug), reverse=True)
    feed = ElementTree.Element(f"{{{ATOM}}}feed", {"{http://www.w3.org/XML/1998/namespace}lang": "en"})
    _add(feed, "title", "Thalweg: verdicts")
    _add(feed, "subtitle", "Claims of papers on training networks, rerun")
    _add(feed, "id", _id("feed"))
    _add(feed, "updated", _stamp(dated[0][0] if dated else _NEVER))
    _add(_add(feed, "author"), "name", "Thalweg")
    _add(feed, "link", rel="alternate", type="text/html", href="index.html")
    for moment, entry, result in dated[:MOST]:
        feed.append(_entry(moment, entry, result))
    ElementTree.indent(feed)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(feed, encoding="unicode") + "\n"


def _entry(moment: datetime, entry: Entry, result: Result) -> ElementTree.Element:
    verdict = result.verdict
    but = f", but explained by {verdict.explained_by}" if verdict.explained_by else ""
    node = ElementTree.Element(f"{{{ATOM}}}entry")
    _add(node, "title", f"{entry.paper.title}: {verdict.word}")
    _add(node, "id", _id(f"{result.slug}/{result.scale}/{verdict.word}"))
    _add(node, "updated", _stamp(moment))
    _add(node, "link", rel="alternate", type="text/html", href=f"papers/{entry.paper.slug}.html")
    _add(node, "category", term=entry.paper.seam)
    _add(node, "summary", f"{verdict.word[:1].upper()}{verdict.word[1:]}{but}. {entry.finding}", type="text")
    return node


def _id(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"thalweg:verdicts/{name}").urn


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{ATOM}}}{tag}", attributes)
    child.text = None if text is None else clean(text)
    return child
