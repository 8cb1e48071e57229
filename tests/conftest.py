"""What every test may use."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from thalweg.linalg import convex_kernels

spec = importlib.util.spec_from_file_location("forked", Path(__file__).with_name("forked.py"))
assert spec is not None and spec.loader is not None
forked = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = forked
spec.loader.exec_module(forked)

torch.set_num_threads(1)  # several test processes share the machine; small tensors gain nothing from more

# For each kind of device that isn't there, torch.manual_seed keeps the whole stack in words, which takes milliseconds.
for kind in (torch.cuda, torch.xpu, torch.mtia):
    if not kind.is_available():
        kind.manual_seed_all = lambda seed: None


def pytest_collection_finish() -> None:
    """Leave what was imported out of garbage collections, which else walk through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_kernels() -> Iterator[None]:
    """A kernel that one test registers, or one docstring, stands in no other test's messages."""
    before = dict(convex_kernels._KERNELS)
    yield
    convex_kernels._KERNELS.clear()
    convex_kernels._KERNELS.update(before)


@pytest.fixture(scope="session")
def forks() -> Iterator[Any]:
    """Where programs are forked from, one for all tests of this process."""
    forks = forked.Forks()
    yield forks
    forks.close()


@pytest.fixture
def start_python(forks: Any) -> Iterator[Callable[..., Any]]:
    """``start_python("-m", "thalweg.cli", ...)``: start a program and go on; it doesn't outlive the test."""
    started = []

    def start(*words: str, **options: Any) -> Any:
        started.append(forks.start(*words, **options))
        return started[-1]

    yield start
    for program in started:
        program.kill()
        program.communicate()


@pytest.fixture
def settled_heap() -> None:
    """Leave what was imported by now out of garbage collections: each run of a race makes one, which costs a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def require_service() -> Callable[[object, str], None]:
    """``require_service(condition, reason)``: go on if the service is there; else skip, or fail where ``CI=true``.

    A test that skips in CI would say nothing about PostgreSQL, Chromium or Ray, so a missing one is a failure there.
    """

    def require(condition: object, reason: str) -> None:
        if condition:
            return
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"{reason} (CI=true: services must be there)", pytrace=False)
        pytest.skip(reason)

    return require
