from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from thalweg.claims.engine import checking
from thalweg.claims.engine.checking import check
from thalweg.claims.engine.claim_file import ClaimFile, fingerprint
from thalweg.claims.engine.contract import Result
from thalweg.claims.engine.device import Running
from thalweg.claims.engine.errors import ClaimError
from thalweg.claims.engine.lock import held
from thalweg.claims.engine.progress import Silent
from thalweg.claims.engine.storage import read_result
from thalweg.testing.pretended import DEVICE, pretending


class Log(Silent):
    """Remembers what happened."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.kept: list[str] = []
        self.ran: list[str] = []
        self.moves: list[tuple[str, float, str]] = []
        self.stops = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, claim: ClaimFile, scale: str, parts: list[str], kept: list[str]) -> None:
        self.kept = kept

    def moved(self, part: str, share: float, doing: str) -> None:
        self.moves.append((part, share, doing))

    def finished(self, part: str) -> None:
        self.ran.append(part)

    def stopped(self) -> None:
        self.stops += 1


def bare(result: Result) -> Result:
    """Without what the clock says."""
    return dataclasses.replace(result, date="", seconds=0.0)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, part: str) -> Log:
    """A log that presses Ctrl-C when ``part`` reports progress."""
    log = Log()

    def press(at: str, share: float, doing: str) -> None:
        if at == part:
            raise KeyboardInterrupt

    monkeypatch.setattr(log, "moved", press)
    return log


def test_a_check_stores_all_that_its_verdict_stands_on(coin: str, tmp_path: Path) -> None:
    log = Log()
    result = check(coin, "smoke", results=tmp_path, listener=log)
    assert read_result(tmp_path / "coin-mean" / "smoke.json") == result
    assert (result.slug, result.scale, result.seeds, result.verdict.word) == (
        "coin-mean",
        "smoke",
        (0, 1, 2),
        "reproduced",
    )
    assert result.rule.startswith("Reproduced") and result.claim_sha256 == fingerprint(Path(coin))
    assert result.chosen is not None and 100 <= result.chosen["coins"] < 150
    assert result.measurements[1].numbers["longest wait"] == float("inf")
    assert result.command == f"thalweg check {coin} --scale smoke" and result.date.endswith("+00:00")
    assert {"thalweg", "torch", "python"} <= set(result.versions) and "cores" in result.machine
    assert log.ran == ["choose", "seed 0", "seed 1", "seed 2"] and log.stops == 1
    assert log.moves[0] == ("seed 0", 0.5, "tossing")
    assert sorted(p.name for p in (tmp_path / ".work").iterdir()) == [".gitignore", "coin-mean-smoke.lock"]


def test_ctrl_c_keeps_finished_seeds_and_the_rest_gives_the_same(
    coin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    whole = check(coin, "smoke", results=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        check(coin, "smoke", results=tmp_path / "b", listener=interrupt_at(monkeypatch, "seed 1"))
    assert not (tmp_path / "b" / "coin-mean").exists()
    torch.manual_seed(2)
    log = Log()
    resumed = check(coin, "smoke", results=tmp_path / "b", resume=True, listener=log)
    assert (log.kept, log.ran) == (["choose", "seed 0"], ["seed 1", "seed 2"])
    assert bare(resumed) == bare(whole)


def test_kill_9_keeps_finished_seeds_and_frees_the_lock(
    coin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    code = f"from thalweg.claims.engine import check; check({coin!r}, 'cpu', results={str(results)!r})"
    notes = {"COIN_NOTES": str(tmp_path), "COIN_WAIT": "seed 2"}
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **notes})
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "waiting").exists():
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(ClaimError, match=f"coin-mean at cpu scale is being checked by process {child.pid} on"):
            check(coin, "cpu", results=results, resume=True)
        assert check(coin, "smoke", results=results).verdict.word == "reproduced"  # another scale isn't disturbed
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    (tmp_path / "ran").unlink()
    monkeypatch.setenv("COIN_NOTES", str(tmp_path))
    resumed = check(coin, "cpu", results=results, resume=True)
    assert (tmp_path / "ran").read_text().splitlines() == ["seed 2", "seed 3"]
    assert bare(resumed) == bare(check(coin, "cpu", results=tmp_path / "whole"))


def test_two_at_once_do_not_collide(coin: str, halves: str, tmp_path: Path) -> None:
    with held(tmp_path / ".work" / "coin-mean-smoke.lock", "it"):
        with pytest.raises(ClaimError, match="is being checked by process") as caught:
            check(coin, "smoke", results=tmp_path)
        assert check(halves, "smoke", results=tmp_path).verdict.word == "reproduced"
    assert "wait for it or stop it" in str(caught.value)
    assert check(coin, "smoke", results=tmp_path).verdict.word == "reproduced"


def stop_after_first(changed: Callable[..., str], tmp_path: Path) -> str:
    """A check of two seeds whose second one raises."""
    path = changed({"    sums =": "    if seed == 8:\n        raise OSError('disk')\n    sums ="})
    with pytest.raises(ClaimError):
        check(path, "cpu", results=tmp_path)
    return path


def test_a_changed_claim_starts_anew(changed: Callable[..., str], tmp_path: Path) -> None:
    stop_after_first(changed, tmp_path)
    log = Log()
    check(changed({}), "cpu", results=tmp_path, resume=True, listener=log)
    assert log.notes == ["sum-of-halves: starting anew: the claim file changed since the interrupted run"]
    assert (log.kept, log.ran) == ([], ["seed 7", "seed 8"])


def test_another_version_of_a_library_starts_anew(coin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        check(coin, "smoke", results=tmp_path, listener=interrupt_at(monkeypatch, "seed 1"))
    versions = checking._versions() | {"torch": "9.0"}
    monkeypatch.setattr(checking, "_versions", lambda: versions)
    log = Log()
    check(coin, "smoke", results=tmp_path, resume=True, listener=log)
    assert log.notes == ["coin-mean: starting anew: the version of torch changed since the interrupted run"]
    assert log.kept == []


def test_without_resume_it_starts_anew_and_says_so(changed: Callable[..., str], tmp_path: Path) -> None:
    path = stop_after_first(changed, tmp_path)
    log = Log()
    with pytest.raises(ClaimError):
        check(path, "cpu", results=tmp_path, listener=log)
    assert log.notes == [
        "sum-of-halves: starting anew without 1 finished seed of an interrupted run (--resume would have kept them)"
    ]
    assert log.ran == ["seed 7"]


def test_nothing_to_resume_is_said(halves: str, tmp_path: Path) -> None:
    log = Log()
    check(halves, "smoke", results=tmp_path, resume=True, listener=log)
    assert log.notes == ["sum-of-halves: there is no interrupted run to go on with; starting with the first seed"]


def test_a_finished_check_is_kept_as_long_as_it_holds(changed: Callable[..., str], tmp_path: Path) -> None:
    path = changed({})
    first = check(path, "smoke", results=tmp_path)
    log = Log()
    assert check(path, "smoke", results=tmp_path, resume=True, listener=log) == first
    assert log.ran == [] and "finished before" in log.notes[0]
    stored = tmp_path / "sum-of-halves" / "smoke.json"
    stored.write_text(stored.read_text().replace('"reproduced"', '"partly"'))
    assert check(path, "smoke", results=tmp_path, resume=True).verdict.word == "reproduced"
    assert read_result(stored).verdict.word == "reproduced"
    changed({"1e-9 of 1.": "1e-9 of one."})
    check(path, "smoke", results=tmp_path, resume=True, listener=log)
    assert log.ran == ["seed 7"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"    sums =": "    1 / 0\n    sums ="}, "seed 7: sum_of_halves.py:13 raised ZeroDivisionError: division by zero"),
        ({"    off =": "    raise SystemExit\n    off ="}, "judge(): sum_of_halves.py:18 raised SystemExit"),
        ({'"sum": sums[-1]': '"sum": float("nan")'}, "seed 7: numbers are NaN: 'sum'"),
        ({'"not reproduced at this scale"': '"wrong"', "off < 1e-9": "False"}, "judge(): judge() must give a Verdict"),
        ({'Curve("sum"': 'Curve("total"'}, "seed 7: curve 'halves' is for panel 'total'"),
        ({"def run": "def choose(scale, *, report):\n    return {1: {2}}\n\n\ndef run"}, "choose()"),
        ({"def run": "def choose(scale, *, report):\n    return float('inf')\n\n\ndef run"}, "choose()"),
    ],
)  # fmt: skip
def test_a_claim_that_fails_is_an_error_and_no_verdict(
    changed: Callable[..., str], tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ClaimError) as caught:
        check(changed(changes), "smoke", results=tmp_path)
    assert str(caught.value).startswith("sum-of-halves, ") and message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sum-of-halves").exists()


def test_without_an_accelerator_the_gpu_scale_says_so_and_stores_nothing(
    coin: str, halves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    result = check(coin, "gpu", results=tmp_path)
    assert result.verdict.word == "needs an accelerator" and result.measurements == ()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="sum-of-halves: unknown scale 'gpu'"):
        check(halves, "gpu", results=tmp_path)


def test_the_gpu_scale_runs_on_the_accelerator(coin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.claims.engine.checking.accelerator", lambda: DEVICE)
    monkeypatch.setattr(Running, "_twin", lambda self, generator, device: generator)
    with pretending():
        assert check(coin, "gpu", results=tmp_path).verdict.word == "reproduced"


def test_a_folder_that_cannot_be_written_is_one_line(halves: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClaimError, match=r"can't write to .*file.*; choose another one with --results"):
        check(halves, "smoke", results=tmp_path / "file")
