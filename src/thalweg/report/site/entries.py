"""The reading list as pages need it: order, status, neighbours, related papers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from thalweg.catalog.paper import Paper
from thalweg.catalog.status import DECIDING, broken_paths
from thalweg.claims.engine.contract import Panel, Result
from thalweg.report.site.badges import Badge, badge
from thalweg.report.site.calls import Call, call
from thalweg.report.site.tables import first_sentence

RELATED = 5


@dataclass(frozen=True)
class Check:
    """A result, and the panels that its claim draws it in."""

    result: Result
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Entry:
    """One paper with what is known of it here.

    Args:
        paper: the catalogue's entry.
        calls: what it names, looked up.
        checks: finished checks of scales that give a verdict; the first is the one that counts.
        trials: checks of other scales, which show that the experiment runs.
    """

    paper: Paper
    calls: tuple[Call, ...] = ()
    checks: tuple[Check, ...] = ()
    trials: tuple[Check, ...] = ()

    @property
    def result(self) -> Result | None:
        """The result whose verdict counts: that of the largest scale; None if there is none."""
        return self.checks[0].result if self.checks else None

    @property
    def badge(self) -> Badge:
        """The verdict's."""
        return badge(self.result.verdict if self.result else None)

    @property
    def finding(self) -> str:
        """What came out, in a sentence; where none was written for this verdict, the first one of its reason."""
        if self.result is None:
            return ""
        verdict = self.result.verdict
        return self.paper.finding_for(verdict.word) or first_sentence(verdict.because)

    @property
    def implemented(self) -> bool:
        """Whether everything that the entry names is there; an entry that names nothing is planned."""
        return bool(self.calls)

    @property
    def status(self) -> tuple[str, ...]:
        """What a filter finds it by: "planned" or "implemented", and "checked" where there is a verdict."""
        first = ("implemented",) if self.implemented else () if self.checks else ("planned",)
        return (*first, *(("checked",) if self.checks else ()))

    @property
    def date(self) -> str:
        """Day of the verdict, such as "2026-11-22"; empty if there is none."""
        moment = moment_of(self.result) if self.result else None
        return moment.date().isoformat() if moment else ""


def entries(papers: Mapping[str, Paper], checks: Iterable[Check]) -> list[Entry]:
    """All entries, newest paper first.

    Raises:
        ValueError: a result of no paper, two results of one scale, or an entry that names what doesn't exist.
    """
    found: dict[str, list[Check]] = {}
    for check in checks:
        result = check.result
        if result.slug not in papers:
            raise ValueError(
                f"there is a result of {result.slug!r}, which is no paper of the list; remove one or add the other"
            )
        if any(other.result.scale == result.scale for other in found.setdefault(result.slug, [])):
            raise ValueError(f"there are two results of {result.slug!r} at scale {result.scale!r}; keep one")
        found[result.slug].append(check)
    made = []
    for slug, paper in papers.items():
        given = {check.result.scale: check for check in found.get(slug, [])}
        deciding = [given.pop(scale) for scale in DECIDING if scale in given]
        made.append(Entry(paper, _calls(paper), tuple(deciding), tuple(given.values())))
    return sorted(made, key=_newest_first)


def related(entry: Entry, others: Sequence[Entry]) -> list[Entry]:
    """Up to five entries with the most telling topics in common: a topic that few have counts more."""
    counts = Counter(topic for other in others for topic in other.paper.topics)
    scores = []
    for i, other in enumerate(others):
        shared = set(entry.paper.topics) & set(other.paper.topics)
        if shared and other.paper.slug != entry.paper.slug:
            score = sum(math.log(1 + len(others) / counts[topic]) for topic in sorted(shared))
            scores.append((score + 0.5 * (other.paper.seam == entry.paper.seam), -i, other))
    return [other for _, _, other in sorted(scores, key=lambda item: item[:2], reverse=True)[:RELATED]]


def moment_of(result: Result) -> datetime | None:
    """When the result was stored, in UTC; None if it doesn't say.

    Raises:
        ValueError: it says something that is no date.
    """
    if not result.date:
        return None
    try:
        moment = datetime.fromisoformat(result.date)
    except ValueError:
        raise ValueError(f"the result of {result.slug!r} is dated {result.date!r}, which is no ISO date") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _calls(paper: Paper) -> tuple[Call, ...]:
    for problem in broken_paths(paper):
        raise ValueError(f"paper {paper.slug!r} names what can't be found: {problem}; see thalweg list --check")
    return tuple(call(path) for path in paper.implements)


def _newest_first(entry: Entry) -> tuple[int, float, str]:
    """By year, then by arXiv's number, which grows with time; ids before 2007 have none."""
    paper = entry.paper
    try:
        number = float(paper.arxiv)
    except ValueError:
        number = 0.0
    return (-paper.year, -number, paper.slug)
