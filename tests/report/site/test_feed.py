from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from thalweg.catalog.paper import Paper
from thalweg.claims.engine.contract import Verdict
from thalweg.report.site import Check
from thalweg.report.site.entries import entries
from thalweg.report.site.feed import ATOM, MOST, atom

NAMES = {"a": ATOM}


def parsed(papers: dict[str, Paper], checks: list[Check]) -> ElementTree.Element:
    return ElementTree.fromstring(atom(entries(papers, checks)).encode())


def test_it_has_what_atom_asks_for(site: Path, papers: dict[str, Paper]) -> None:
    """RFC 4287: feed and entries need id, title and updated; the feed an author; entries without content a link."""
    feed = ElementTree.parse(site / "feed.xml").getroot()
    assert feed.tag == f"{{{ATOM}}}feed" and feed.findtext("a:author/a:name", namespaces=NAMES)
    found = feed.findall("a:entry", NAMES)
    assert len(found) == 41
    for node in [feed, *found]:
        assert all(len(node.findall(f"a:{tag}", NAMES)) == 1 for tag in ("id", "title", "updated"))
        assert (node.findtext("a:id", namespaces=NAMES) or "").startswith("urn:uuid:")
        moment = datetime.fromisoformat(node.findtext("a:updated", "", NAMES))
        assert moment.tzinfo is not None
        link = node.find("a:link", NAMES)
        assert link is not None and link.get("rel") == "alternate" and (site / link.attrib["href"]).is_file()
    ids = [node.findtext("a:id", namespaces=NAMES) for node in [feed, *found]]
    assert len(set(ids)) == len(ids)
    times = [node.findtext("a:updated", "", NAMES) for node in found]
    assert times == sorted(times, reverse=True) and feed.findtext("a:updated", namespaces=NAMES) == times[0]
    first = found[0].findtext("a:summary", "", NAMES)
    assert (
        first.endswith(". On small problems momentum number 81 keeps about half of what it says.")
        and first[0].isupper()
    )


def test_ids_follow_the_verdict_and_dates_the_result(papers: dict[str, Paper], maker: Callable[..., Check]) -> None:
    paper = next(iter(papers.values()))

    def entry(**given: object) -> tuple[str | None, str | None]:
        node = parsed(papers, [maker(paper, **given)]).find("a:entry", NAMES)
        assert node is not None
        return node.findtext("a:id", namespaces=NAMES), node.findtext("a:updated", namespaces=NAMES)

    before, rerun, changed = entry(day=1), entry(day=9), entry(word="partly", day=9)
    assert before[0] == rerun[0] != changed[0]
    assert (before[1], rerun[1]) == ("2026-11-01T10:30:00Z", "2026-11-09T10:30:00Z")


@pytest.mark.parametrize(
    ("date", "updated"),
    [
        ("2026-11-22", "2026-11-22T00:00:00Z"),
        ("2026-11-22T01:00:00+02:00", "2026-11-21T23:00:00Z"),
        ("", "1970-01-01T00:00:00Z"),
    ],
)
def test_dates_are_utc(papers: dict[str, Paper], maker: Callable[..., Check], date: str, updated: str) -> None:
    check = maker(next(iter(papers.values())))
    feed = parsed(papers, [dataclasses.replace(check, result=dataclasses.replace(check.result, date=date))])
    assert feed.findtext("a:updated", namespaces=NAMES) == updated
    assert len(feed.findall("a:entry", NAMES)) == bool(date)  # a verdict without a date is not news


def test_a_wrong_date_is_an_error(papers: dict[str, Paper], maker: Callable[..., Check]) -> None:
    check = maker(next(iter(papers.values())))
    with pytest.raises(ValueError, match="dated 'yesterday', which is no ISO date"):
        parsed(papers, [dataclasses.replace(check, result=dataclasses.replace(check.result, date="yesterday"))])


def test_the_newest_come_first_and_texts_are_escaped(papers: dict[str, Paper], maker: Callable[..., Check]) -> None:
    some = [maker(paper, seeds=1, day=1 + i % 28) for i, paper in enumerate(papers.values())]
    verdict = Verdict("partly", "1 < 2 & \x00", "a <b>")
    some[27] = dataclasses.replace(
        some[27], result=dataclasses.replace(some[27].result, verdict=verdict, date="2027-01-01")
    )
    found = parsed(papers, some).findall("a:entry", NAMES)
    assert len(found) == MOST
    assert found[0].findtext("a:summary", "", NAMES) == "Partly, but explained by a <b>. 1 < 2 & \ufffd"
