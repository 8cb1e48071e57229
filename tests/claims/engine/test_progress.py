from __future__ import annotations

from pathlib import Path

import pytest

from thalweg.claims.engine import progress
from thalweg.claims.engine.checking import check
from thalweg.claims.engine.progress import Bar, about


def test_it_says_beforehand_what_and_how_long(
    coin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    bar = Bar()
    assert bar.farewell("x") == "stopped before anything was measured"
    check(coin, "cpu", results=tmp_path, listener=bar)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "coin-mean: Means of coins come near one half."
    assert lines[1] == "cpu scale, about 1 s on two cores: settings are chosen, then seeds 0, 1, 2, 3"
    assert lines[2].startswith("coin-mean: choose done, 1 of 5, about ")
    assert lines[3] == "coin-mean: 30%, seed 0: tossing"
    assert lines[-1] == "coin-mean: seed 3 done, 5 of 5"
    assert bar.farewell("again") == "stopped; 5 of 5 parts of coin-mean are kept. Go on with: again"


def test_a_terminal_gets_a_bar(coin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    bar = Bar()
    monkeypatch.setattr(bar._console, "_force_terminal", True)
    seen: list[float] = []
    moved = bar.moved

    def watch(part: str, share: float, doing: str) -> None:
        moved(part, share, doing)
        seen.append(bar._bar.tasks[0].completed)

    monkeypatch.setattr(bar, "moved", watch)
    check(coin, "smoke", results=tmp_path, listener=bar)
    assert seen == [1.5, 2.5, 3.5] and bar._bar is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (150, "2.5 min"), (4000, "67 min"), (7200, "2 h")]
)
def test_times(seconds: float, text: str) -> None:
    assert about(seconds) == f"about {text}"
