"""Runs commands as users run them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from thalweg import cli

Run = Callable[..., "Done"]


@dataclass
class Done:
    """What a command printed and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def settled(settled_heap: None) -> None:
    """All tests of this folder."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs ``thalweg`` in an empty folder, in this process: starting one for every mistake would take minutes."""

    def call(*words: str, **more: str) -> Done:
        capfd.readouterr()
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
            patch.chdir(tmp_path)
            patch.setattr(sys, "argv", ["thalweg", *words])
            for key, value in more.items():
                patch.setenv(key, value)
            cli.main()
        code = end.value.code
        said = capfd.readouterr()
        return Done(code if isinstance(code, int) else 0, said.out, said.err)

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)
