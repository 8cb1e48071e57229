"""The reading list on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thalweg.catalog import papers
from thalweg.catalog import sentence_match as sentences
from thalweg.claims.engine import load
from thalweg.claims.engine.contract import Measurement, Result, Verdict
from thalweg.claims.engine.storage import figure_path, write_result

FIELDS = {
    "slug", "title", "year", "arxiv", "url", "seam", "kind", "summary", "claim", "topics", "implements", "status",
    "verdict", "because", "explained_by", "scale", "finding",
}  # fmt: skip


@pytest.fixture
def verdict(tmp_path: Path) -> Path:
    """A made-up result of one paper in the folder where commands run; the folder of results."""
    results = tmp_path / "results"
    word = Verdict("partly", "off by 2 (1)", explained_by="a longer warm-up")
    write_result(results, Result("lion-k", "cpu", "rule", (Measurement({"a": 1.0}),), (0,), word))
    figure_path(results, "lion-k", "cpu").write_text("<svg/>")
    return results


def test_the_list_has_every_paper_with_its_status(run, verdict):
    rows = json.loads(run("list", "--json").stdout)
    assert [row["slug"] for row in rows] == list(papers()) and all(set(row) == FIELDS for row in rows)
    by_slug = {row["slug"]: row for row in rows}
    assert (by_slug["lion"]["status"], by_slug["lion"]["verdict"]) == ("implemented", None)
    assert {row["status"] for row in rows if not row["implements"]} <= {"planned"}
    row = by_slug["lion-k"]
    assert (row["verdict"], row["because"], row["scale"]) == ("partly", "off by 2 (1)", "cpu")
    assert row["finding"] == papers()["lion-k"].finding_for("partly") != "" and by_slug["lion"]["finding"] is None


def test_filters_combine(run, verdict):
    chosen = json.loads(run("list", "--seam", "init", "--json").stdout)
    assert chosen and {row["seam"] for row in chosen} == {"init"}
    assert [row["slug"] for row in json.loads(run("list", "--status", "partly", "--json").stdout)] == ["lion-k"]
    assert json.loads(run("list", "--status", "partly", "--seam", "init", "--json").stdout) == []
    rows = json.loads(run("list", "--topic", "memory", "--status", "implemented", "--json").stdout)
    assert "lion" in {row["slug"] for row in rows}
    assert all(any("memory" in topic for topic in row["topics"]) for row in rows)
    assert json.loads(run("list", "--status", "not-repro", "--json").stdout) == []
    assert json.loads(run("list", "--results", "nowhere", "--status", "partly", "--json").stdout) == []


def test_the_table_counts(run, verdict):
    said = run("list", "--seam", "optim").stdout
    assert "lion-k" in said and "partly" in said and "1 with a verdict" in said


def test_show_says_all_about_one_paper(run, verdict):
    said = " ".join(run("show", "lion-k").stdout.split())
    paper = papers()["lion-k"]
    assert paper.finding is not None
    texts = (
        paper.title,
        paper.url,
        paper.claim,
        paper.summary,
        paper.finding.text,
        "partly at cpu scale. off by 2 (1)",
    )
    for text in texts:
        assert text in said
    assert "Explained by a longer warm-up." in said and "thalweg check lion-k" in said
    assert "from thalweg.optim import Lion" in run("show", "lion").stdout
    assert "thalweg check" not in run("show", "textgrad").stdout
    assert set(json.loads(run("show", "lion", "--json").stdout)) == FIELDS


def test_search_says_how_it_searched(run, monkeypatch):
    monkeypatch.setattr(sentences, "model_folder", lambda: None)
    found = json.loads(run("search", "less memory when fine-tuning", "--json").stdout)
    assert found["searched_by"] == "words" and len(found["papers"]) == 10
    scores = [row["score"] for row in found["papers"]]
    assert scores == sorted(scores, reverse=True)
    assert {"wta-crs", "frugal"} & {row["slug"] for row in found["papers"][:4]}
    said = run("search", "lion", "-n", "1").stdout
    assert "searched by words" in said and papers()["lion"].title in said
    nothing = run("search", "zzz")
    assert (nothing.returncode, nothing.stdout) == (1, "") and "try other words" in nothing.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--seam", "optimm"], "unknown seam 'optimm'; did you mean 'optim'"),
        (["list", "--status", "plannd"], "unknown status 'plannd'; did you mean 'planned'"),
        (["list", "--status", "not"], "unknown status 'not'"),
        (["list", "--topic", "memmory"], "no paper has a topic with 'memmory'; near it are 'memory'"),
        (["show", "lyon"], "unknown paper 'lyon'; did you mean 'lion'"),
        (["show"], "Missing argument"),
        (["search", " "], "say what to search for"),
        (["search", "lion", "-n", "0"], "-n"),
    ],
)
def test_mistakes_are_one_line(run, words, message):
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_the_check_reports_each_wrong_thing_on_a_line(run, verdict):
    done = run("list", "--check")
    assert done.returncode == 1
    assert done.stdout == (
        "results/lion-k/cpu.json: comes from another version of lion_k.py; run thalweg check lion-k --scale cpu\n"
    )
    assert json.loads(run("list", "--check", "--json").stdout) == done.stdout.splitlines()
    good = run("list", "--check", "--results", "empty")
    assert (good.returncode, good.stdout) == (0, "nothing is wrong with the catalogue and the results in empty\n")


def test_help_teaches_by_examples(run):
    for command, example in {
        "list": "thalweg list --topic",
        "show": "thalweg show lion",
        "search": 'search "less',
    }.items():
        assert example in run(command, "--help", COLUMNS="100").stdout
    assert load("lion-k").slug in run("check", "--help", COLUMNS="100").stdout
