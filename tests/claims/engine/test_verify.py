from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from thalweg.claims.engine import claim_file, verify
from thalweg.claims.engine.checking import check
from thalweg.claims.engine.claim_file import load
from thalweg.claims.engine.contract import Measurement, Result, Verdict
from thalweg.claims.engine.storage import figure_path, read_result, write_result
from thalweg.claims.engine.verify import all_problems, judged_again, problems

KNOWN = {"sum-of-halves"}


@pytest.fixture
def result(halves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """A good result with its figure, of a claim that counts as the package's."""
    monkeypatch.setattr(claim_file, "FOLDER", Path(halves).parent)
    found = check("sum-of-halves", "smoke", results=tmp_path)
    figure_path(tmp_path, "sum-of-halves", "smoke").write_text("<svg/>")
    return found


def rewritten(result: Result, folder: Path, **changes: object) -> list[str]:
    """What is found after a result was changed and stored again, with a fresh checksum."""
    write_result(folder, dataclasses.replace(result, **changes))  # type: ignore[arg-type]
    return problems(folder, KNOWN)


def test_a_good_result_holds_and_is_judged_the_same(result: Result, tmp_path: Path) -> None:
    assert problems(tmp_path, KNOWN) == []
    assert judged_again(read_result(tmp_path / "sum-of-halves" / "smoke.json"), load("sum-of-halves")) == result.verdict


def test_edited_numbers_and_verdicts_are_found_though_the_checksum_fits(result: Result, tmp_path: Path) -> None:
    place = f"{tmp_path}/sum-of-halves/smoke.json"
    again = "run thalweg check sum-of-halves --scale smoke"
    (line,) = rewritten(result, tmp_path, measurements=(Measurement({"sum": 0.5}),))
    assert line == (
        f"{place}: says 'reproduced' (off by 9e-13 (1e-9)), but its numbers give "
        f"'not reproduced at this scale' (off by 0.5 (1e-9)); {again}"
    )
    (line,) = rewritten(result, tmp_path, verdict=Verdict("partly", "because"))
    assert line.startswith(f"{place}: says 'partly' (because), but its numbers give 'reproduced'")
    (line,) = rewritten(result, tmp_path, verdict=dataclasses.replace(result.verdict, explained_by="luck"))
    assert "explained by luck" in line
    (line,) = rewritten(result, tmp_path, measurements=(Measurement({"other": 0.5}),))
    assert line == f"{place}: judge() raised KeyError: 'sum'"


def test_an_edit_by_hand_is_found(result: Result, tmp_path: Path) -> None:
    path = tmp_path / "sum-of-halves" / "smoke.json"
    path.write_text(path.read_text().replace('"seconds"', '"seconds" '))
    assert problems(tmp_path, KNOWN) == []
    path.write_text(re.sub(r'"date": "20', '"date": "19', path.read_text()))
    assert problems(tmp_path, KNOWN) == [
        f"{path}: was edited after it was written; run thalweg check sum-of-halves again"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claim_sha256": "0" * 64}, "comes from another version of sum_of_halves.py; run thalweg check"),
        ({"seeds": (8,)}, "its seeds aren't those of sum_of_halves.py"),
        ({"measurements": ()}, "its seeds aren't those of sum_of_halves.py"),
        ({"rule": "Reproduced: always."}, "its rule isn't that of sum_of_halves.py"),
    ],
)
def test_results_of_another_claim_file(
    result: Result, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    (line,) = rewritten(result, tmp_path, **changes)
    assert message in line


def test_results_of_no_paper_in_the_wrong_place_or_without_a_figure(result: Result, tmp_path: Path) -> None:
    assert problems(tmp_path, {"other"}) == [
        f"{tmp_path}/sum-of-halves/smoke.json: there is no paper 'sum-of-halves' in the catalogue"
    ]
    folder = tmp_path / "sum-of-halves"
    figure_path(tmp_path, "sum-of-halves", "smoke").rename(folder / "cpu.svg")
    lines = problems(tmp_path, KNOWN)
    assert lines == [
        f"{folder}/smoke.json: its figure smoke.svg is missing; thalweg check sum-of-halves --scale smoke --resume draws it",
        f"{folder}/cpu.svg: is the figure of no result; remove it",
    ]
    (folder / "smoke.json").rename(folder / "cpu.json")
    (line,) = problems(tmp_path, KNOWN)
    assert line == f"{folder}/cpu.json: is the result of 'sum-of-halves' at scale 'smoke'; it belongs elsewhere"
    (folder / "cpu.json").write_text("{")
    (line,) = problems(tmp_path, KNOWN)
    assert line.startswith(f"{folder}/cpu.json: is not a result of thalweg check") and "\n" not in line


def test_unfinished_work_is_no_result(result: Result, tmp_path: Path) -> None:
    folder = tmp_path / ".work" / "sum-of-halves-smoke"
    folder.mkdir()
    (folder / "seed-7.json").write_text("{}")
    assert problems(tmp_path, KNOWN) == []


def test_the_claims_and_the_catalogue_are_looked_at_too(result: Result, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(verify, "broken_paths", lambda paper: [f"{paper.slug}.x: no"] if paper.slug == "lion" else [])
    lines = all_problems(tmp_path)
    assert "papers.toml, entry 'lion': implements: lion.x: no" in lines
    assert "coin-mean: there is a claim file, but no paper of this name in the catalogue" in lines
    assert len(lines) == 4


def test_a_finding_that_is_missing_or_of_another_verdict_is_a_line(tmp_path: Path) -> None:
    for slug, word in (("lion", "reproduced"), ("textgrad", "partly")):
        write_result(tmp_path, Result(slug, "cpu", "r", (Measurement({"a": 1.0}),), (0,), Verdict(word, "b")))
    lines = [line for line in all_problems(tmp_path) if ": finding: " in line]
    assert lines == [
        f"papers.toml, entry 'lion': finding: was written for 'not reproduced at this scale', but {tmp_path}/lion/cpu.json "
        "says 'reproduced'; write it anew",
        f"papers.toml, entry 'textgrad': finding: missing, though {tmp_path}/textgrad/cpu.json says 'partly'; add one "
        "sentence that says what came out",
    ]


def test_nothing_is_wrong_with_what_is_committed() -> None:
    """The catalogue, the claim files and the results of this checkout; the same as ``thalweg list --check``."""
    assert all_problems(Path(__file__).parents[3] / "results") == []
