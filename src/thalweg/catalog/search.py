"""Finds papers by what they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from thalweg.catalog import sentence_match, word_match
from thalweg.catalog.paper import SEAMS, Paper

Way = Literal["words", "sentence embeddings"]

_FLOOR = 1e-6
"""Papers that share nothing with the query are left out."""


@dataclass(frozen=True)
class Hit:
    """A paper that was found, and how near it is to the query: 0 is nothing in common, 1 the same."""

    paper: Paper
    score: float


def best_way() -> Way:
    """How :func:`search` searches here: by sentence embeddings where model and transformers are installed, else by words."""
    return "words" if sentence_match.model_folder() is None else "sentence embeddings"


def search(
    query: str, papers: Mapping[str, Paper] | Iterable[Paper], *, limit: int | None = None, way: Way | None = None
) -> list[Hit]:
    """Papers by how near they are to ``query``, the nearest first.

    Args:
        query: words or a question; a slug alone puts its paper first.
        papers: the papers to search.
        limit: at most so many.
        way: "words": TF-IDF over titles, topics, claims and summaries; "sentence embeddings": MiniLM's, with a part of the
            score by words, since a name means nothing to it. ``None`` takes :func:`best_way`.

    Raises:
        ValueError: the query is empty.
        ImportError: sentence embeddings are asked for and what they need isn't installed.

    Example:
        >>> from thalweg.catalog import papers
        >>> from thalweg.catalog.search import search
        >>> search("lion", papers(), way="words")[0].paper.slug
        'lion'
    """
    if not query.strip():
        raise ValueError('say what to search for, e.g. thalweg search "less memory when fine-tuning"')
    found = list(papers.values() if isinstance(papers, Mapping) else papers)
    if not found:
        return []
    scores = word_match.word_scores(query, [_weighted(paper) for paper in found])
    if (way or best_way()) == "sentence embeddings":
        near = sentence_match.sentence_scores(query, [_sentences(paper) for paper in found])
        scores = 0.75 * near.clip(0) + 0.25 * scores
    named = query.strip().lower().replace(" ", "-")
    hits = [Hit(p, 1.0 if p.slug == named else float(s)) for p, s in zip(found, scores, strict=True)]
    hits = [hit for hit in hits if hit.score > _FLOOR]
    return sorted(hits, key=lambda hit: -hit.score)[:limit]


def _weighted(paper: Paper) -> str:
    """A paper's words; what names it counts more than once."""
    names = f"{paper.slug} {paper.title} {'. '.join(paper.topics)}. "
    return f"{names * 2}{paper.claim} {paper.summary} {SEAMS[paper.seam]}"


def _sentences(paper: Paper) -> str:
    return f"{paper.title}. {'; '.join(paper.topics)}. {paper.summary} {paper.claim} About {SEAMS[paper.seam]}."
