"""The table of all update rules: the committed page is what the generator makes, and every rule says when to use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thalweg.optim import Lion, list_optimizers
from thalweg.race.recipe import load_methods
from thalweg.registry import Method, methods
from thalweg.report import rule_page
from thalweg.report.rule_costs import Costs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "optimizers.md"


@pytest.fixture(scope="module", autouse=True)
def registered():
    load_methods()


def test_the_committed_page_is_what_is_generated():
    page = PAGE.read_text(encoding="utf-8")
    assert rule_page.with_tables(page, ROOT / "results") == page, "run: make pages"
    ours = [name for name in list_optimizers() if methods("optim")[name].target.__module__.startswith("thalweg.")]
    assert [name for name in ours if f"\n| `{name}` |" not in page] == []  # other tests register rules of their own


def test_every_rule_says_when_to_use_it_in_one_sentence():
    for found in methods("optim").values():
        if found.target.__module__.startswith("thalweg."):
            assert found.use.endswith(".") and found.use.count(". ") == 0 and "|" not in found.use, found.name


def test_a_rule_without_a_sentence_and_a_page_without_a_place_are_errors(monkeypatch, tmp_path):
    monkeypatch.setattr(rule_page, "costs", lambda method: Costs(4.0, 5.0, 11.0, 1))
    with pytest.raises(ValueError, match="no place for the table 'optimizers'"):
        rule_page.with_tables("# Nothing", tmp_path)
    silent = Method("lion", "optim", Lion)
    with pytest.raises(ValueError, match="lion doesn't say when to use it"):
        rule_page._row(silent, Costs(4.0, 5.0, 11.0, 1), tmp_path)


def test_verdicts_come_from_the_results(tmp_path):
    lion = methods("optim")["lion"]
    assert rule_page._row(lion, Costs(4.0, 5.0, 11.0, 1), tmp_path).endswith("| none yet |")
    (tmp_path / "lion").mkdir()
    verdict = {"word": "partly", "because": "x", "explained_by": "a smaller rate"}
    (tmp_path / "lion" / "cpu.json").write_text(json.dumps({"verdict": verdict}))
    row = rule_page._row(lion, Costs(4.0, None, None, 2), tmp_path)
    assert "[partly, but explained by a smaller rate](../results/lion/cpu.json)" in row
    assert "| own passes | own passes, 2 gradients |" in row


def test_docstrings_become_one_line_with_links():
    assert "([arXiv:2302.06675](https://arxiv.org/abs/2302.06675))" in rule_page.adds(Lion)
    assert rule_page.number(2539.1) == "2540" and rule_page.number(0.2345678) == "0.235"
