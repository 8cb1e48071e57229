"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch

from thalweg.linalg import convex_kernels

torch.set_num_threads(1)  # two test processes share the machine; small tensors gain nothing from more


@pytest.fixture(autouse=True)
def own_kernels() -> Iterator[None]:
    """A kernel that one test registers, or one docstring, stands in no other test's messages."""
    before = dict(convex_kernels._KERNELS)
    yield
    convex_kernels._KERNELS.clear()
    convex_kernels._KERNELS.update(before)


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
