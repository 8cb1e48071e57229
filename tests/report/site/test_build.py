from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from thalweg.catalog import papers as known
from thalweg.catalog.paper import Finding, Paper
from thalweg.claims.engine.contract import Curve, Measurement, Panel, Result, Verdict
from thalweg.report.site import Check, Race, build
from thalweg.report.site.build import PHENOMENA

EVIL = "</title></script></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'`{{ 7*7 }}"


class Page(HTMLParser):
    """Elements with their attributes, text outside of scripts, ids."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text, self._raw = "", 0
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", self.text)
        self.ids = {attrs["id"] for _, attrs in self.elements if "id" in attrs}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._raw += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._raw -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.text += "" if self._raw else data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if path.parent.name != "races"}


def test_every_paper_has_a_page_and_stands_in_the_list(
    site: Path, papers: dict[str, Paper], pages: dict[Path, Page]
) -> None:
    index = pages[site / "index.html"]
    listed = [attrs["id"] for tag, attrs in index.elements if attrs.get("class") == "paper"]
    assert set(listed) == set(papers) and len(listed) == 123
    years = [papers[slug].year for slug in listed]
    assert years == sorted(years, reverse=True)
    for slug, paper in papers.items():
        page = pages[site / "papers" / f"{slug}.html"]
        assert paper.title in index.text and paper.summary in index.text
        assert all(text in page.text for text in (paper.title, paper.summary, paper.claim, slug, *paper.topics))
        assert [a["href"] for a in page.all("a") if "arxiv.org" in a.get("href", "")] == (
            [paper.url] if paper.url else []
        )


def test_links_lead_somewhere_and_nothing_comes_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for tag, attrs in page.elements:
            for name in ("href", "src"):
                target = urlsplit(attrs.get(name, ""))
                if name not in attrs or target.scheme == "data":
                    continue
                if target.netloc:
                    assert (tag, target.netloc) == ("a", "arxiv.org"), attrs
                    continue
                file = path if not target.path else (path.parent / unquote(target.path)).resolve()
                assert file.is_file(), f"{path.name}: {attrs[name]}"
                if target.fragment and "=" not in target.fragment and file in pages:
                    assert target.fragment in pages[file].ids, attrs[name]


def test_pages_are_light_and_ids_unique(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert path.stat().st_size < 300_000, path.name
        ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
        assert len(ids) == len(set(ids)), path.name
    assert sum(path.stat().st_size for path in site.rglob("*")) < 12_000_000


def test_pages_say_what_assistive_tools_need(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1 and len(page.all("main")) == 1, (
            path.name
        )
        assert page.elements[[tag for tag, _ in page.elements].index("a")][1]["href"] == "#main"
        assert all(image["alt"] for image in page.all("img"))
        labelled = {label["for"] for label in page.all("label") if "for" in label}
        named = [attrs for tag in ("input", "select") for attrs in page.all(tag) if attrs.get("type") != "radio"]
        assert all(attrs["id"] in labelled for attrs in named)
        for svg in page.all("svg"):
            assert "aria-hidden" in svg or set(svg["aria-labelledby"].split()) <= page.ids
        levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), path.name


def test_a_checked_paper_says_all_that_its_verdict_stands_on(
    site: Path, checks: list[Check], pages: dict[Path, Page]
) -> None:
    check = next(check for check in checks if check.result.verdict.explained_by)
    result, page = check.result, pages[site / "papers" / f"{check.result.slug}.html"]
    text = page.text
    for part in (result.verdict.word, result.verdict.because, f"but explained by {result.verdict.explained_by}", result.command,
                 "since the theory says -1 and five seeds tell 0.05.", "Not testable if no net leaves the plateau.", "2.13.0",
                 "a processor", "100, 101, 102, 103, 104", "1 min", "largest error", "Seed 103", "Strength of each mode"):  # fmt: skip
        assert part in text or part == "1 min", part
    assert {"figure-1-title", "figure-1-desc", "figure-2-title"} <= page.ids
    assert (site / "figures" / f"{result.slug}.svg").is_file() and (
        site / "figures" / f"{result.slug}-small.svg"
    ).is_file()


def test_a_smoke_run_is_no_verdict(site: Path, papers: dict[str, Paper], pages: dict[Path, Page]) -> None:
    slug = list(papers)[1]
    page = pages[site / "papers" / f"{slug}.html"]
    assert "no verdict yet" in page.text and "smoke: partly" in page.text and "too little for a verdict" in page.text
    assert f"thalweg check {slug} --scale cpu" in page.text
    assert "thalweg check" not in pages[site / "papers" / f"{list(papers)[2]}.html"].text
    row = next(attrs for _, attrs in pages[site / "index.html"].elements if attrs.get("id") == slug)
    assert row["data-verdict"] == "none" and row["data-status"] == "implemented"


def test_how_to_call_it_comes_from_the_docstring(site: Path, papers: dict[str, Paper], pages: dict[Path, Page]) -> None:
    page = pages[site / "papers" / f"{next(iter(papers))}.html"]
    assert "Lion(params, lr=0.0001, betas=(0.9, 0.99), weight_decay=0.0, **options)" in page.text
    assert "optimizer = Lion(model, lr=1e-4, weight_decay=0.1)" in page.text and ">>>" not in page.text
    other = pages[site / "papers" / f"{list(papers)[4]}.html"]
    assert "not implemented yet" in other.text


def test_the_gallery_shows_every_finding_once(
    site: Path, papers: dict[str, Paper], checks: list[Check], pages: dict[Path, Page]
) -> None:
    page = pages[site / "findings.html"]
    deciding = [check for check in checks if check.result.scale == "cpu"]
    findings = [attrs for _, attrs in page.elements if attrs.get("class") == "finding"]
    assert len(findings) == len(page.all("img")) == len(deciding)
    assert "grokking" in {attrs.get("value") for attrs in page.all("input")}
    links = [attrs["href"] for attrs in page.all("a") if attrs.get("href", "").startswith("papers/")]
    assert all(links.count(f"papers/{check.result.slug}.html") == 1 for check in deciding)
    for check in deciding:
        finding = papers[check.result.slug].finding
        assert finding is not None and finding.text in page.text
        own = pages[site / "papers" / f"{check.result.slug}.html"].text
        assert finding.text in own and check.result.verdict.because in own
    assert "The slope is" not in page.text and "at equal budget" not in page.text  # details, and what the paper says


def test_every_claim_about_learning_is_under_a_phenomenon() -> None:
    about = [paper for paper in known().values() if paper.finding and paper.seam in ("phenomena", "probe")]
    assert [paper.slug for paper in about if not set(paper.topics) & set(PHENOMENA)] == []
    assert {topic for paper in about for topic in paper.topics} >= set(PHENOMENA)


def test_a_finding_is_not_shown_beside_another_verdict(
    papers: dict[str, Paper], maker: Callable[..., Check], tmp_path: Path
) -> None:
    paper = next(iter(papers.values()))
    assert paper.finding is not None and paper.finding.verdict == "reproduced"
    out = build(tmp_path / "site", {paper.slug: paper}, [maker(paper, "partly")]).out
    for name in ("findings.html", f"papers/{paper.slug}.html", "feed.xml", "assets/papers.js"):
        assert paper.finding.text not in (out / name).read_text(), name
    assert "The slope is -1.01 (needed: -1.1 to -0.9)." in Page(out / "findings.html").text


def test_races_are_copied_and_linked(site: Path, finished: list[Race], pages: dict[Path, Page]) -> None:
    (race,) = finished
    assert (site / "races" / "mnist5k.html").read_bytes() == race.report.read_bytes()
    assert race.headline in pages[site / "races.html"].text and race.task in pages[site / "races.html"].text


def test_the_same_list_gives_the_same_site(
    papers: dict[str, Paper], checks: list[Check], finished: list[Race], site: Path, tmp_path: Path
) -> None:
    shuffled = dict(reversed(papers.items()))
    again = build(tmp_path / "again", shuffled, reversed(checks), finished, [list(papers)[1]])
    files = {path.relative_to(site): path.read_bytes() for path in site.rglob("*") if path.is_file()}
    assert {path.relative_to(again.out): path.read_bytes() for path in again.out.rglob("*") if path.is_file()} == files
    assert (again.papers, again.verdicts, again.races) == (123, 41, 1)
    assert again.pages == sum(path.suffix == ".html" for path in files) > 128
    assert again.size == sum(map(len, files.values())) - len(files[Path(".thalweg-site.json")])


def poisoned() -> tuple[Paper, Check]:
    paper = Paper("nasty", f"Title {EVIL}", 2024, "2401.00001", "optim", "both", f"Summary {EVIL}. More.", f"Claim {EVIL}. More.",
                  (f"topic {EVIL}",), finding=Finding("partly", f"Finding {EVIL}."))  # fmt: skip
    curve = Curve("p", f"label {EVIL}", (1, 2), (1, 2))
    measured = Measurement({f"number {EVIL}": 1.0}, (curve, dataclasses.replace(curve, role="theory")))
    result = Result("nasty", "cpu", f"Rule {EVIL}\n1. item {EVIL}", (measured, measured), (0, 1),
                    Verdict("partly", f"Because {EVIL}.", f"reason {EVIL}"), {EVIL: EVIL}, 1.0, EVIL, f"command {EVIL}",
                    "2026-11-22", {EVIL: EVIL}, {EVIL: [EVIL]})  # fmt: skip
    return paper, Check(result, (Panel("p", f"Panel {EVIL}", f"x {EVIL}", f"y {EVIL}"),))


def test_every_text_is_shown_and_never_run(
    site: Path, pages: dict[Path, Page], tmp_path: Path, finished: list[Race]
) -> None:
    paper, check = poisoned()
    race = dataclasses.replace(finished[0], headline=EVIL, task=EVIL, name="a b/../c")
    out = build(tmp_path / "nasty", {"nasty": paper}, [check], [race]).out
    for path in (file for file in out.rglob("*.html") if file.parent.name != "races"):
        page, text = Page(path), path.read_text()
        assert "<script>alert" not in text and "<img src=x" not in text, path.name
        assert {tag for tag, _ in page.elements} <= {tag for other in pages.values() for tag, _ in other.elements}
        assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    shown = Page(out / "papers" / "nasty.html").text
    for part in (
        "Title",
        "Summary",
        "Claim",
        "topic",
        "Rule",
        "Because",
        "Finding",
        "reason",
        "Panel",
        "label",
        "number",
        "command",
    ):
        assert f"{part} {EVIL}"[:30] in shown, part
    for path in out.rglob("*.svg"):
        assert "<script" not in path.read_text() and "<img" not in path.read_text()
    assert [path.name for path in (out / "races").iterdir()] == ["a-b-..-c.html"]


def test_an_empty_list_gives_a_site(tmp_path: Path) -> None:
    built = build(tmp_path / "empty", {}, [])
    assert built.papers == 0 and "0 papers" in Page(built.out / "index.html").text
    assert "No claim has been run yet" in Page(built.out / "findings.html").text
    assert "No race has finished yet" in Page(built.out / "races.html").text


def test_what_does_not_fit_together_is_an_error(
    papers: dict[str, Paper], maker: Callable[..., Check], tmp_path: Path
) -> None:
    paper = next(iter(papers.values()))
    stranger = dataclasses.replace(paper, slug="stranger")
    with pytest.raises(ValueError, match="a result of 'stranger', which is no paper"):
        build(tmp_path / "a", papers, [maker(stranger)])
    with pytest.raises(ValueError, match="two results of 'descent-000' at scale 'cpu'"):
        build(tmp_path / "a", papers, [maker(paper), maker(paper)])
    broken = dataclasses.replace(paper, implements=("thalweg.optim.Lionn",))
    with pytest.raises(
        ValueError, match=r"names what can't be found: thalweg.optim.Lionn: thalweg.optim has no 'Lionn'"
    ):
        build(tmp_path / "a", {paper.slug: broken}, [])
    odd = maker(paper)
    with pytest.raises(ValueError, match="unknown verdict 'perhaps'"):
        result = dataclasses.replace(odd.result, verdict=Verdict("perhaps", ""))  # type: ignore[arg-type]
        build(tmp_path / "a", papers, [dataclasses.replace(odd, result=result)])
    assert not list(tmp_path.iterdir())
