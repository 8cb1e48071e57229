"""Races on the command line, run as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg

pytestmark = pytest.mark.timeout(900)
HEAD = "import torch\nfrom torch import nn\nfrom thalweg.tasks import Task\nX = torch.randn(100, 3)\ny = X.sum(1, keepdim=True)\n"
GOOD = "Task('mine', lambda: nn.Linear(3, 1), (X[:80], y[:80]), (X[80:], y[80:]), nn.functional.mse_loss, batch_size=8, steps=6)"


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """A race of a user's own task that takes a second; the task prints where it shouldn't."""
    (tmp_path / "mine.py").write_text(f"{HEAD}print('loaded')\ndef task():\n    print('made')\n    return {GOOD}\n")
    return [
        "race",
        "--task",
        "mine.py",
        "adamw",
        "lion + orthogonal",
        "--trials",
        "2",
        "--seeds",
        "3",
        "--workers",
        "0",
    ]


def test_starts_without_torch():
    code = "import sys, thalweg.cli; print([m for m in ('torch', 'optuna', 'numpy', 'sqlalchemy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_help(run):
    assert run("--version").stdout.strip() == f"thalweg {thalweg.__version__}"
    assert "race" in run().stdout
    said = run("race", "--help", COLUMNS="100").stdout
    assert "thalweg race --task my_task.py adamw" in said
    for option in ("--resume", "--storage", "--ray", "--precision", "--tensorboard", "--target"):
        assert option in said


def test_methods_and_tasks(run):
    rows = {row["name"]: row for row in json.loads(run("methods", "--json").stdout)}
    assert {"adamw", "sgd", "lion", "lamb", "muon", "orthogonal", "gradient_noise"} <= set(rows)
    assert rows["lion"]["kind"] == "optimizer" and rows["lion"]["search"]["lr"][0] == "log"
    assert rows["gradient_noise"]["kind"] == "transform"
    only = json.loads(run("methods", "--seam", "init", "--json").stdout)
    assert {row["seam"] for row in only} == {"init"}
    assert "betas" in run("methods", "lion").stdout
    tasks = {row["name"] for row in json.loads(run("tasks", "--json").stdout)}
    assert {"digits", "mnist5k", "docs-lm", "deep-linear"} == tasks
    assert "digits" in run("tasks").stdout


def test_a_race_prints_a_table_and_writes_a_report(run, small, tmp_path):
    done = run(*small)
    assert done.returncode == 0, done.stderr
    assert "lion" in done.stdout and "Report: runs/mine/report.html" in done.stdout
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert "10 of 10 runs done" in done.stderr
    (tmp_path / "runs" / "mine" / "report.html").unlink()
    again = run("report", "runs/mine")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    compared = run("report", "runs/mine", "--name", "mine", "--name", "mine", "--profile", "--json")
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert found["figure"] == "runs/profile.png" and (tmp_path / "runs" / "profile.png").exists()
    assert {row["recipe"] for row in found["recipes"]} == {"adamw", "lion + orthogonal"}
    assert run(*small[:-5], "1", "--seeds", "1", "--workers", "0").returncode == 0
    assert (tmp_path / "runs" / "mine-2" / "race.db").exists()


def test_a_report_that_can_not_be_written_does_not_hide_the_result(run, small, tmp_path):
    short = [*small[:-5], "1", "--seeds", "1", "--workers", "0"]
    assert run(*short).returncode == 0
    report = tmp_path / "runs" / "mine" / "report.html"
    report.unlink()
    report.mkdir()
    done, told = run("race", "--resume"), run("report", "runs/mine", "--json")
    assert "lion" in done.stdout and "Report:" not in done.stdout
    assert json.loads(told.stdout)["report"] is None
    for each in (done, told):
        assert each.returncode == 2
        assert "can't write the report runs/mine/report.html: Is a directory" in each.stderr


def test_a_renamed_folder_is_resumed(run, small, tmp_path):
    assert run(*[*small[:-5], "1", "--seeds", "1", "--workers", "0"], "--name", "k").returncode == 0
    (tmp_path / "runs" / "k").rename(tmp_path / "runs" / "renamed")
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "race.db").write_text("not a database")
    os.utime(tmp_path / "runs" / "other" / "race.db", (0, 0))
    for words in ([], ["--name", "k"], ["--name", "renamed"]):
        (tmp_path / "runs" / "renamed" / "report.html").unlink()
        done = run("race", "--resume", *words)
        assert done.returncode == 0, done.stderr
        assert "Report: runs/renamed/report.html" in done.stdout
    assert not (tmp_path / "runs" / "k").exists()
    assert "there is no race 'j' in runs; it has other, renamed" in run("race", "--resume", "--name", "j").stderr


def test_a_race_of_which_no_run_finishes_is_a_failure(run, tmp_path):
    """The loss can't be computed once training has begun; the task's check, one batch and one evaluation, went well."""
    broken = GOOD.replace("nn.functional.mse_loss", "loss")
    loss = "calls = []\ndef loss(outputs, targets):\n    calls.append(1)\n    assert len(calls) < 9, 'no more'\n"
    loss += "    return nn.functional.mse_loss(outputs, targets)\n"
    (tmp_path / "broken.py").write_text(f"{HEAD}{loss}def task():\n    return {broken}\n")
    done = run(
        "race", "--task", "broken.py", "adamw", "lion", "--trials", "1", "--seeds", "3", "--workers", "0", "--json"
    )
    assert done.returncode == 1
    assert "no run finished; the first, of adamw: raised: AssertionError: no more (broken.py:" in done.stderr
    rows = json.loads(done.stdout)["recipes"]
    assert [row["verdict"] for row in rows] == ["failed", "failed"]
    assert rows[1]["reason"] == "none of its 3 fresh runs finished"


def test_a_budget_in_seconds(run, small):
    done = run(*small, "--seconds", "0.05", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(
        done.stdout[done.stdout.index("{") :]
    )  # the task prints, too, when it runs in the test's process
    assert result["decides"] == "seconds"
    baseline, *others = result["recipes"]
    for row in others:
        if row["verdict"] == "no comparison":  # the clock may end a run after a step that gained nothing
            assert row["reason"] == baseline["reason"] != ""
        measured = row["verdict"] != "no comparison" and row["reached"] == row["seeds"] == baseline["reached"]
        assert (row["steps_ratio"] is not None) == measured


def test_json_is_all_there_is_on_standard_output(small, tmp_path):
    """In a process of its own, where a task's prints go to the real standard output."""
    command = [sys.executable, "-m", "thalweg.cli", *small, "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "made" in done.stderr
    result = json.loads(done.stdout, parse_constant=pytest.fail)
    assert set(result) >= {"task", "baseline", "target", "recipes", "report"}
    assert (result["task"], result["baseline"]) == ("mine", "adamw")
    keys = {
        "name", "settings", "trials", "seeds", "steps_to_target", "steps_ratio", "steps_ratio_ci", "seconds_to_target",
        "seconds_ratio", "seconds_ratio_ci", "final", "final_ci", "step_seconds", "peak_memory_bytes", "state_bytes",
        "diverged", "failed", "verdict",
    }  # fmt: skip
    assert all(set(row) >= keys for row in result["recipes"])
    assert result["recipes"][0]["verdict"] == "baseline"
    assert Path(result["report"]).name == "report.html"
    assert all(row["state_bytes"] > 0 and row["step_seconds"] > 0 for row in result["recipes"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise OSError('no data today')", "bad.py:1: the file raised OSError: no data today"),
        ("def task(:", "bad.py:1: SyntaxError"),
        ("x = 1", "bad.py: defines no function task()"),
        ("def task():\n    return 7", "task() must return a thalweg.tasks.Task, not a value of type int"),
        (f"{HEAD}def task():\n    return {GOOD.replace('nn.Linear(3, 1)', 'nn.Linear(4, 1)')}", "mat1 and mat2 shapes"),
        (f"{HEAD}X[7, 1] = float('nan')\ndef task():\n    return {GOOD}", "bad.py"),
        (
            f"{HEAD}def task():\n    return {GOOD.replace('(X[:80], y[:80])', '(X[:80], y[:79])')}",
            "80 inputs but 79 targets",
        ),
        (
            f"{HEAD}def task():\n    return {GOOD.replace('(X[:80], y[:80])', 'torch.utils.data.TensorDataset(X)')}",
            "bad.py",
        ),
        (
            f"{HEAD}def task():\n    return {GOOD.replace('nn.functional.mse_loss', 'lambda out, t: out')}",
            "loss(outputs, targets)",
        ),
        (
            f"{HEAD}def task():\n    return {GOOD.replace('steps=6', 'steps=0')}",
            "steps must be a positive whole number",
        ),
    ],
)
def test_a_bad_task_file_is_one_line(run, tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    done = run("race", "--task", "bad.py", "adamw")
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert not (tmp_path / "runs").exists()
    debug = run("race", "--task", "bad.py", "adamw", "--debug")
    assert debug.returncode == 2 and "Traceback" in debug.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["race", "adanw"], 2, "unknown method 'adanw'; did you mean 'adamw'"),
        (["race", "adamw", "adamw"], 2, "given twice"),
        (["race", "adamw", "--task", "digit"], 2, "unknown task 'digit'; did you mean 'digits'"),
        (["race", "adamw", "--task", "nothere.py"], 2, "nothere.py: there is no such file"),
        (["race", "adamw", "--steps", "0", "--task", "digits"], 2, "steps must be a whole number, at least 1"),
        (["race", "adamw", "--steps", "many"], 2, "--steps"),
        (["race", "--nope"], 2, "--nope"),
        (["race", "adamw", "--task", "digits", "--stop-at-target"], 2, "stop_at_target needs a target"),
        (["race", "adamw", "--task", "digits", "--name", "a/b"], 2, "race name 'a/b'"),
        (["race", "adamw", "--task", "digits", "--device", "mps"], 2, "device 'mps': torch finds none on this machine"),
        (["race", "--resume"], 2, "no race to resume in runs"),
        (["race", "--resume", "--name", "x"], 2, "no race 'x' in runs; it has none"),
        (["race", "adamw", "--task", "digits", "--storage", "mysql://u:pw12345@h/d"], 3, "driver is missing"),
        (["race", "adamw", "--task", "digits", "--storage", "nowhere/x.db"], 3, "does its folder exist"),
        (["race", "adamw", "--task", "digits", "--out", "/proc/nope"], 2, "can't make the folder"),
        (["report", "nowhere"], 2, "there is no race in nowhere"),
        (["report", "one", "another"], 2, "compare several with --profile"),
        (
            ["report", "a", "b", "c", "--name", "x", "--name", "y"],
            2,
            "given 2 times for 3 places: give it once for each",
        ),
        (["report", "one", "--seconds"], 2, "--seconds and --figure belong to --profile"),
        (["methods", "lyon"], 2, "did you mean 'lion'"),
        (["methods", "--seam", "optimm"], 2, "did you mean 'optim'"),
    ],
)
def test_mistakes_are_one_line(run, words, code, message):
    done = run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "pw12345" not in done.stderr


def test_debug_shows_the_traceback(run):
    assert "Traceback" in run("race", "adanw", "--debug").stderr
