"""What the search box looks through, as a script file: a page that was opened from a file can't fetch JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from thalweg.report.site.entries import Entry
from thalweg.report.text import clean


def search_script(entries: Sequence[Entry]) -> str:
    """``thalwegPapers``: the searched fields of each paper by slug, in the order of the weights in ``site.js``."""
    fields = {
        entry.paper.slug: [
            clean(entry.paper.title),
            clean(" ".join([entry.paper.slug, entry.paper.arxiv, entry.paper.seam, *entry.paper.implements])),
            clean(" ".join(entry.paper.topics)),
            clean(entry.paper.summary),
            clean(entry.paper.claim),
            clean(f"{entry.result.verdict.word} {entry.finding}") if entry.result else "",
        ]
        for entry in entries
    }
    return f"const thalwegPapers = {json.dumps(fields, separators=(',', ':'))};\n"
