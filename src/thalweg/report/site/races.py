"""Finished races, found by the reports that they wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from thalweg.race.folders import REPORT
from thalweg.report.text import clean


@dataclass(frozen=True)
class Race:
    """A finished race.

    Args:
        name: its folder's.
        report: its page.
        headline: the answer in one sentence.
        task: what was trained.
    """

    name: str
    report: Path
    headline: str
    task: str

    @property
    def page(self) -> str:
        """The name of its page on the site."""
        return re.sub(r"[^\w.-]+", "-", self.name) + ".html"


def find_races(folders: Iterable[Path]) -> list[Race]:
    """Races of which a folder holds ``NAME/report.html``, by name; of two with the same name the first folder's.

    What isn't a report that a race wrote is passed over, and so are folders that don't exist.
    """
    found: dict[str, Race] = {}
    for folder in folders:
        for report in sorted(folder.glob(f"*/{REPORT}")):
            head = _Head()
            head.feed(report.read_text(encoding="utf-8", errors="replace")[:4096])
            headline, middle, task = head.title.rpartition(" Race on ")
            if head.ours and middle:
                found.setdefault(report.parent.name, Race(report.parent.name, report, clean(headline), clean(task)))
    return [found[name] for name in sorted(found)]


class _Head(HTMLParser):
    """A page's title, and whether Thalweg wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.title, self.ours, self._inside = "", False, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "title"
        self.ours |= (
            tag == "meta" and dict(attrs).get("name") == "generator" and dict(attrs).get("content") == "Thalweg"
        )

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.title += data if self._inside else ""
