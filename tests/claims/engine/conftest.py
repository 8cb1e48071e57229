"""Tiny claims, and a way to write broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = Path(__file__).with_name("tiny")


@pytest.fixture
def coin() -> str:
    """A claim that chooses, draws random numbers and has three scales."""
    return str(TINY / "coin_mean.py")


@pytest.fixture
def halves() -> str:
    """A claim that neither chooses nor draws."""
    return str(TINY / "sum_of_halves.py")


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., str]:
    """``changed({old: new})``: a copy of the claim of halves with lines replaced."""

    def write(changes: dict[str, str], name: str = "sum_of_halves.py") -> str:
        text = (TINY / "sum_of_halves.py").read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write
