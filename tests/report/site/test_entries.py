from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from thalweg.catalog.paper import Paper
from thalweg.claims.engine.contract import Measurement, Result, Verdict
from thalweg.report.site import Check, Race, find_races
from thalweg.report.site.badges import BADGES, NONE, badge
from thalweg.report.site.entries import entries, related
from thalweg.report.site.tables import first_sentence, number_rows, rule_blocks


def test_status_and_verdict_follow_from_code_and_results(papers: dict[str, Paper], maker: Callable[..., Check]) -> None:
    some = dict(list(papers.items())[:6])
    names = list(some)
    given = [maker(some[names[0]], "partly"), maker(some[names[0]], scale="gpu"), maker(some[names[5]], scale="smoke"),
             maker(some[names[4]])]  # fmt: skip
    found = {entry.paper.slug: entry for entry in entries(some, given)}
    first = found[names[0]]
    assert first.result is not None and first.result.scale == "gpu" and first.badge.word == "reproduced"
    assert [check.result.scale for check in first.checks] == ["gpu", "cpu"]
    assert first.status == ("implemented", "checked") and first.date == "2026-11-01"
    assert found[names[1]].status == ("implemented",) and found[names[4]].status == ("checked",)
    assert found[names[5]].status == ("planned",) and found[names[5]].badge is NONE and len(found[names[5]].trials) == 1


def test_newest_papers_come_first() -> None:
    def paper(slug: str, year: int, arxiv: str) -> Paper:
        return Paper(slug, "T", year, arxiv, "optim", "method", "S", "C")

    made = [
        paper("a", 2023, "2302.06675"),
        paper("b", 2023, "2310.00001"),
        paper("c", 2024, ""),
        paper("d", 2002, "cs/0112017"),
    ]
    assert [entry.paper.slug for entry in entries({p.slug: p for p in made}, [])] == ["c", "b", "a", "d"]


def test_related_papers_share_the_rarest_topics(papers: dict[str, Paper]) -> None:
    base = next(iter(papers.values()))
    rare = dataclasses.replace(base, slug="rare", seam="probe", topics=("unheard of",), implements=())
    also = dataclasses.replace(rare, slug="also", seam="solve")
    alone = dataclasses.replace(rare, slug="alone", topics=("its own",))
    listed = entries({**papers, "rare": rare, "also": also, "alone": alone}, [])
    by_slug = {entry.paper.slug: entry for entry in listed}
    assert [other.paper.slug for other in related(by_slug["rare"], listed)] == ["also"]
    assert related(by_slug["alone"], listed) == []
    found = related(by_slug[base.slug], listed)
    assert len(found) == 5 and all(set(other.paper.topics) & set(base.topics) for other in found)
    assert base.slug not in [other.paper.slug for other in found]


def test_badges_tell_apart_by_word_and_shape() -> None:
    every = [*BADGES, NONE]
    assert len({b.word for b in every}) == len({b.shape for b in every}) == len({b.key for b in every}) == 6
    assert badge(None) is NONE and badge(Verdict("partly", "")).key == "partly"


def test_numbers_over_seeds() -> None:
    seeds = [{"a_b": 1.0, "t": math.inf}, {"a_b": 0.123456, "t": 240.0}, {"a_b": 3.0, "only": 1e-5, "t": math.inf}]
    result = Result("x", "cpu", "r", tuple(Measurement(n) for n in seeds), (0, 1, 2), Verdict("partly", ""))
    rows = {row.name: row for row in number_rows(result)}
    assert (rows["a b"].median, rows["a b"].low, rows["a b"].high) == ("1", "0.1235", "3")
    assert rows["t"].median == "∞" and rows["t"].low == "240" and rows["t"].each == ("∞", "240", "∞")
    assert rows["only"].each == ("–", "–", "1e-5") and rows["only"].median == "1e-5"
    both = Result(
        "x", "cpu", "r", (Measurement({"t": math.inf}), Measurement({"t": -math.inf})), (0, 1), Verdict("partly", "")
    )
    assert number_rows(both)[0].median == "−∞"
    many = dataclasses.replace(result, measurements=result.measurements * 4)
    assert number_rows(many)[0].each == ()


def test_rules_keep_their_paragraphs_and_lists() -> None:
    text = "Three things.\n1. Theory. Within\n   2% of it.\n2. Depth.\nReproduced: all.\nPartly: one.\n\n- a dash\n  goes on\n\nEnd."
    assert [(block.mark, block.text) for block in rule_blocks(text)] == [
        ("", "Three things."), ("1.", "Theory. Within 2% of it."), ("2.", "Depth."), ("", "Reproduced: all. Partly: one."),
        ("-", "a dash goes on"), ("", "End."),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("It is 0.5, i.e. Small. Two", "It is 0.5, i.e. Small."),
        ("no end", "no end"),
        ("A?\nB", "A?"),
    ],
)
def test_first_sentences(text: str, first: str) -> None:
    assert first_sentence(text) == first


def test_races_are_found_by_their_reports(finished: list[Race], tmp_path: Path) -> None:
    for folder, name in (("runs", "b"), ("runs", "a"), ("kept", "b")):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "report.html").write_bytes(finished[0].report.read_bytes())
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "report.html").write_text("<title>Race on nothing</title>")
    (tmp_path / "runs" / "unfinished").mkdir()
    found = find_races([tmp_path / "kept", tmp_path / "runs", tmp_path / "missing"])
    assert [(race.name, race.report.parent.parent.name) for race in found] == [("a", "runs"), ("b", "kept")]
    assert found[0].task == "mnist5k" and "adamw" in found[0].headline
