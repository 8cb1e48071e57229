from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from thalweg.claims.engine.contract import Curve, Measurement, Result, Verdict
from thalweg.claims.engine.errors import ClaimError
from thalweg.claims.engine.storage import (
    figure_path,
    read_result,
    result_path,
    stored_results,
    write_result,
    write_text,
)

CURVE = Curve("p", "net", (1, 2, 3), (1 / 3, math.inf, 12345678.9), "theory")
MEASUREMENT = Measurement({"third": 1 / 3, "never": math.inf, "tiny": 5e-324, "below": -math.inf}, (CURVE,))
RESULT = Result(
    "a-paper", "cpu", "rule", (MEASUREMENT,), (3,), Verdict("reproduced", "1 < 2 → “good”", "less"), {"lr": [0.1, 1]},
    1.5, "0" * 64, "thalweg check a-paper", "2026-01-02T03:04:05+00:00", {"torch": "2"}, {"cores": 2},
)  # fmt: skip


def test_a_result_comes_back_as_it_went(tmp_path: Path) -> None:
    path = write_result(tmp_path, RESULT)
    assert path == result_path(tmp_path, "a-paper", "cpu") == tmp_path / "a-paper" / "cpu.json"
    assert figure_path(tmp_path, "a-paper", "cpu") == tmp_path / "a-paper" / "cpu.svg"
    back = read_result(path)
    assert back.measurements[0].numbers == MEASUREMENT.numbers
    curve = back.measurements[0].curves[0]
    assert (curve.x, curve.y, curve.role) == ((1.0, 2.0, 3.0), (0.333333, math.inf, 12345700.0), "theory")
    assert write_result(tmp_path / "again", back).read_bytes() == path.read_bytes()
    assert stored_results(tmp_path) == [back]
    for name in ("slug", "scale", "rule", "seeds", "verdict", "chosen", "seconds", "command", "date", "machine"):
        assert getattr(back, name) == getattr(RESULT, name)


def test_the_file_is_strict_json_of_short_lines(tmp_path: Path) -> None:
    text = write_result(tmp_path, RESULT).read_text(encoding="utf-8")
    data = json.loads(text, parse_constant=pytest.fail)
    assert data["measurements"][0]["numbers"] == {"third": 1 / 3, "never": "inf", "tiny": 5e-324, "below": "-inf"}
    assert data["verdict"]["because"] == "1 < 2 → “good”"
    assert max(map(len, text.splitlines())) < 160


@pytest.mark.parametrize(
    ("old", "new"), [("0.3333333333333333,", "0.34,"), ('"reproduced"', '"partly"'), ("12345700.0", "1.0")]
)
def test_an_edit_is_told(tmp_path: Path, old: str, new: str) -> None:
    path = write_result(tmp_path, RESULT)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(
        ClaimError, match=r"cpu\.json: was edited after it was written; run thalweg check a-paper again"
    ):
        read_result(path)


def test_a_reformatted_file_is_no_edit(tmp_path: Path) -> None:
    path = write_result(tmp_path, RESULT)
    result = read_result(path)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=4))
    assert read_result(path) == result


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"slug": "a"}', '{"verdict": 3}', "\x00", '"text"', "null"])
def test_damaged_files_are_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(text)
    with pytest.raises(ClaimError, match="is not a result of thalweg check") as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new\ud800")
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["b.txt"]
