"""Claims on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from thalweg.claims.engine import claim_file
from thalweg.claims.engine.storage import read_result

TINY = Path(__file__).parents[1] / "claims" / "engine" / "tiny"
COIN, HALVES = str(TINY / "coin_mean.py"), str(TINY / "sum_of_halves.py")


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A claim that raises."""
    text = Path(HALVES).read_text().replace("    sums =", "    1 / 0\n    sums =")
    (tmp_path / "broken.py").write_text(text)
    return "broken.py"


def test_the_verdict_stands_beside_its_rule(run, tmp_path):
    done = run("check", HALVES, "--scale", "smoke")
    assert done.returncode == 0, done.stderr
    assert "sum-of-halves: reproduced" in done.stdout and "off by 9e-13 (1e-9)" in done.stdout
    assert "Reproduced: the sum of 40 halves is within 1e-9 of 1." in done.stdout
    assert "Numbers: results/sum-of-halves/smoke.json\nFigure:  results/sum-of-halves/smoke.svg\n" in done.stdout
    assert "Halves of halves add up to one." in done.stderr and "about 1 s on two cores: seed 7" in done.stderr
    folder = tmp_path / "results" / "sum-of-halves"
    assert read_result(folder / "smoke.json").verdict.word == "reproduced"
    assert ElementTree.parse(folder / "smoke.svg").getroot().tag.endswith("svg")


def test_json_is_all_there_is_on_standard_output(run):
    done = run("check", COIN, HALVES, "--scale", "smoke", "--results", "out", "--json")
    rows = json.loads(done.stdout, parse_constant=pytest.fail)
    assert [row["slug"] for row in rows] == ["coin-mean", "sum-of-halves"]
    assert rows[0]["verdict"]["word"] == "reproduced" and rows[0]["numbers"][1]["longest wait"] == "inf"
    assert rows[0]["result"] == "out/coin-mean/smoke.json" and rows[0]["figure"] == "out/coin-mean/smoke.svg"
    assert rows[0]["rule"].startswith("Reproduced") and "measurements" not in rows[0]
    assert "2 claims at smoke scale: about 1 s on two cores" in done.stderr


def test_a_claim_that_raises_is_an_error_and_the_others_still_run(run, broken, tmp_path):
    done = run("check", broken, HALVES, "--scale", "smoke")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: broken, seed 7: broken.py:13 raised ZeroDivisionError: division by zero "
        "(run again with --debug for the traceback)"
    ]
    assert "sum-of-halves: reproduced" in done.stdout and "broken:" not in done.stdout
    assert not (tmp_path / "results" / "broken").exists()
    debug = run("check", broken, "--scale", "smoke", "--json", "--debug")
    assert debug.returncode == 1 and "Traceback" in debug.stderr and "1 / 0" in debug.stderr
    (row,) = json.loads(debug.stdout)
    assert row["error"].startswith("broken, seed 7:") and "verdict" not in row


def test_ctrl_c_says_how_to_go_on_and_resume_does(run, tmp_path):
    text = (
        Path(HALVES)
        .read_text()
        .replace("    sums =", "    if seed == 8 and not DONE.exists():\n        press()\n    sums =")
    )
    text += "\n\ndef press():\n    DONE.touch()\n    raise KeyboardInterrupt\n"
    text = text.replace("RULE =", f"from pathlib import Path\n\nDONE = Path({str(tmp_path / 'pressed')!r})\nRULE =")
    (tmp_path / "halves.py").write_text(text)
    done = run("check", "halves.py", "--results", "my results")
    assert (done.returncode, done.stdout) == (130, "")
    again = "thalweg check halves.py --scale cpu --results 'my results' --resume"
    assert done.stderr.splitlines()[-1] == f"stopped; 1 of 2 parts of halves are kept. Go on with: {again}"
    done = run("check", "halves.py", "--scale", "cpu", "--results", "my results", "--resume")
    assert done.returncode == 0 and "halves: reproduced" in done.stdout
    assert "1 of 2 parts are there already" in done.stderr and "seed 8 done" in done.stderr


def test_all_and_seam_choose_claims(run, monkeypatch):
    monkeypatch.setattr(claim_file, "FOLDER", TINY)
    done = run("check", "--seam", "optim", "--scale", "smoke")
    assert (done.returncode, done.stdout) == (2, "") and "there is no claim about optim yet" in done.stderr
    monkeypatch.setattr("thalweg.claims.engine.claim_file.slugs", lambda: ["sum-of-halves"])
    done = run("check", "--all", "--scale", "smoke", "--json")
    assert [row["slug"] for row in json.loads(done.stdout)] == ["sum-of-halves"]
    done = run("check", "--all", "--scale", "gpu", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert done.stderr == "without gpu scale, left out: sum-of-halves\n"


def test_a_scale_that_needs_an_accelerator(run, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    done = run("check", COIN, "--scale", "gpu")
    assert done.returncode == 0 and "coin-mean: needs an accelerator" in done.stdout
    assert not (tmp_path / "results").exists()
    done = run("check", HALVES, "--scale", "gpu")
    assert done.returncode == 1 and "error: sum-of-halves: unknown scale 'gpu'" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which claims to check: either their slugs, or --all, or --seam"),
        (["lion-k", "--all"], "say which claims to check"),
        (["lion-q"], "unknown claim 'lion-q'; did you mean 'lion-k'"),
        (["lion-k", "textgrad"], "there is no claim for 'textgrad' yet"),
        (["lion-k", "--scale", "cpuu"], "unknown scale 'cpuu'; did you mean 'cpu'"),
        (["--seam", "optimm"], "unknown seam 'optimm'; did you mean 'optim'"),
        (["nothere.py"], "nothere.py: there is no such file"),
    ],
)
def test_mistakes_are_one_line(run, words, message):
    done = run("check", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1
