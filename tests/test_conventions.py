"""The findings that docs/check-optimizer.md shows: the page has the stored ones, and some of them are found again."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def conventions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conventions", ROOT / "benchmarks" / "conventions.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["conventions"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result(conventions: ModuleType) -> dict[str, Any]:
    return json.loads(conventions.RESULT.read_text())


def test_the_page_shows_what_is_stored(conventions: ModuleType, result: dict[str, Any]) -> None:
    page = conventions.PAGE.read_text()
    assert conventions.with_tables(page, result) == page
    assert {"torch", "thalweg"} <= set(result["packages"]) <= set(conventions.PACKAGES)
    emptied = json.loads(json.dumps(result))
    emptied["packages"]["torch"]["classes"]["SGD"]["failed"] = {}
    assert conventions.with_tables(page, emptied) != page


@pytest.mark.parametrize(("package", "name"), [("torch", "SGD"), ("torch", "Rprop"), ("lion-pytorch", "Lion")])
def test_what_is_stored_is_found_again(
    conventions: ModuleType, result: dict[str, Any], package: str, name: str
) -> None:
    stored = result["packages"][package]
    if metadata.version(package) != stored["version"]:
        pytest.skip(f"{package} has another version than in the stored run")
    torch.manual_seed(0)
    assert conventions.examined(conventions.PACKAGES[package]()[name]) == stored["classes"][name]


def test_our_own_classes_keep_all(conventions: ModuleType, result: dict[str, Any]) -> None:
    found = result["packages"]["thalweg"]["classes"]
    assert {name: own for name, own in found.items() if own.get("failed") != {}} == {}
    assert set(found) >= {"AdamW", "Lamb", "Muon", "Lion"}


def test_what_can_not_be_run_says_why(conventions: ModuleType) -> None:
    def needs_more(params: Any, lr: float = 0.1, *, horizon: int) -> torch.optim.Optimizer:
        raise AssertionError("never called without a horizon")

    needs_more.__qualname__ = "NeedsMore"
    found = conventions.examined(needs_more)
    assert set(found) == {"not run"} and "horizon" in found["not run"]
    with pytest.raises(TimeoutError, match=r"takes more than 0\.05 s"), conventions.patience(0.05):
        while time.process_time():
            pass
