from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from thalweg.catalog import Paper, papers
from thalweg.catalog import status as module
from thalweg.catalog.paper import Finding
from thalweg.catalog.status import broken_paths, results_folder, status, wrong_finding

PAPER = Paper("a", "A", 2020, "", "optim", "method", "s", "c")


def with_paths(*paths: str) -> Paper:
    return dataclasses.replace(PAPER, implements=paths)


def store(results: Path, scale: str, word: str, explained_by: str | None = None) -> None:
    folder = results / "a"
    folder.mkdir(exist_ok=True)
    verdict = {"word": word, "because": "1 < 2", "explained_by": explained_by}
    (folder / f"{scale}.json").write_text(json.dumps({"verdict": verdict}))


def test_the_word_follows_from_what_can_be_imported(tmp_path: Path) -> None:
    assert status(PAPER, tmp_path).word == "planned"
    assert status(with_paths("thalweg.optim.Lion", "thalweg.registry"), tmp_path).word == "implemented"
    assert status(with_paths("thalweg.optim.Lion", "thalweg.optim.Lyon"), tmp_path).word == "planned"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("thalweg.optim.Lyon", "thalweg.optim has no 'Lyon'"),
        ("thalweg.optim.Lion.stepp", "thalweg.optim.Lion has no 'stepp'"),
        ("thalweg.optimm.Lion", "thalweg has no 'optimm'"),
        ("nothere.at.all", "there is no such module"),
    ],
)
def test_broken_paths_say_where_they_break(path: str, reason: str) -> None:
    assert broken_paths(with_paths("thalweg.optim.Lion", path)) == [f"{path}: {reason}"]


def test_a_module_that_cannot_be_imported_is_not_taken_for_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_more.py").write_text("import something_not_installed\n")
    (tmp_path / "raises.py").write_text("raise RuntimeError('no')\n")
    found = broken_paths(with_paths("needs_more.f", "raises.f"))
    assert "importing needs_more raised ModuleNotFoundError: No module named 'something_not_installed'" in found[0]
    assert "importing raises raised RuntimeError: no" in found[1]


def test_the_strongest_committed_result_gives_the_verdict(tmp_path: Path) -> None:
    store(tmp_path, "smoke", "reproduced")
    assert status(PAPER, tmp_path).verdict == ""
    store(tmp_path, "cpu", "partly")
    found = status(PAPER, tmp_path)
    assert (found.word, found.verdict, found.because, found.scale) == ("planned", "partly", "1 < 2", "cpu")
    store(tmp_path, "gpu", "reproduced", "a smaller rate")
    found = status(PAPER, tmp_path)
    assert (found.verdict, found.explained_by, found.scale) == ("reproduced", "a smaller rate", "gpu")
    (tmp_path / "a" / "gpu.json").write_text("{half a fi")
    assert status(PAPER, tmp_path).scale == "cpu"


def test_a_finding_must_tell_of_the_stored_verdict(tmp_path: Path) -> None:
    told = dataclasses.replace(PAPER, finding=Finding("partly", "It holds for one of two."))
    assert wrong_finding(PAPER, tmp_path) == wrong_finding(told, tmp_path) == ""
    store(tmp_path, "smoke", "reproduced")
    assert wrong_finding(PAPER, tmp_path) == ""
    store(tmp_path, "cpu", "partly")
    assert wrong_finding(told, tmp_path) == ""
    says = f"{tmp_path}/a/cpu.json says 'partly'"
    assert wrong_finding(PAPER, tmp_path) == f"missing, though {says}; add one sentence that says what came out"
    store(tmp_path, "gpu", "reproduced")
    assert wrong_finding(told, tmp_path) == (
        f"was written for 'partly', but {tmp_path}/a/gpu.json says 'reproduced'; write it anew"
    )


def test_findings_stand_where_results_are() -> None:
    """Of papers without a result there is nothing to tell; that those with one have theirs, ``list --check`` says."""
    results = Path(__file__).parents[2] / "results"
    assert [slug for slug, paper in papers().items() if paper.finding and not status(paper, results).verdict] == []


def test_results_are_here_or_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    (checkout / "src" / "thalweg" / "catalog").mkdir(parents=True)
    elsewhere.mkdir()
    (checkout / "pyproject.toml").touch()
    monkeypatch.setattr(module, "__file__", str(checkout / "src" / "thalweg" / "catalog" / "status.py"))
    monkeypatch.chdir(elsewhere)
    assert results_folder() == Path("results")
    (checkout / "results").mkdir()
    assert results_folder() == checkout / "results"
    (elsewhere / "results").mkdir()
    assert results_folder() == Path("results")
    assert results_folder("given") == Path("given")
