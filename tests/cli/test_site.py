"""The command that writes the site."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest

from thalweg.catalog import papers
from thalweg.claims.engine import load
from thalweg.claims.engine.contract import Curve, Measurement, Result, Verdict
from thalweg.claims.engine.storage import write_result


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A made-up result of one paper; the folder of results."""
    panel = load("lion-k").claim.PANELS[0]
    measured = Measurement({"a": 1.0}, (Curve(panel.key, "Lion", (1.0, 2.0), (1.0, 0.5)),))
    word = Verdict("partly", "off by 2 (at most 1)", explained_by="a longer warm-up")
    write_result(tmp_path / "results", Result("lion-k", "cpu", "rule", (measured,), (0,), word, date="2026-11-22"))
    return tmp_path / "results"


def test_the_whole_list_becomes_a_site(run, results, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda address: shown.append(address) or True)
    done = run("site", "--out", "pages", "--open")
    index = tmp_path / "pages" / "index.html"
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith(f"Site: {index} ({len(papers())} papers, 1 verdict, 0 races; ")
    assert shown == [index.as_uri()]
    assert {path.stem for path in (tmp_path / "pages" / "papers").iterdir()} == set(papers())
    page = (tmp_path / "pages" / "papers" / "lion-k.html").read_text()
    assert "off by 2 (at most 1)" in page and "a longer warm-up" in page and "<figcaption>" in page
    assert sum(path.stat().st_size >= 300_000 for path in (tmp_path / "pages").rglob("*.html")) == 0
    again = json.loads(run("site", "--out", "pages", "--results", str(results), "--json").stdout)
    assert (again["papers"], again["verdicts"], again["site"]) == (len(papers()), 1, str(index))


def test_without_a_browser_the_file_is_named(run, results, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    done = run("site", "--open")
    assert done.returncode == 0 and done.stderr == "No browser could be started; open the file yourself.\n"


def test_mistakes_are_one_line(run, results, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    done = run("site", "--out", "mine")
    assert (done.returncode, done.stdout) == (
        2,
        "",
    ) and "holds what no site of ours put there (thesis.tex)" in done.stderr
    done = run("site", "--results", "nowhere")
    assert done.returncode == 2 and done.stderr == "nowhere is not a folder of results; thalweg check makes one\n"
    (results / "lion-k" / "cpu.json").write_text("{}")
    done = run("site")
    assert (
        done.returncode == 2 and "is not a result of thalweg check" in done.stderr and not (tmp_path / "site").exists()
    )
