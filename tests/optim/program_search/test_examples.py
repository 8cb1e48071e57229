"""The examples in the docstrings of the package's names run; those that ``thalweg.optim`` exports are run there."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import nn

from thalweg.optim import program_search


@pytest.mark.parametrize("name", ["ShortTraining", "make_optimizer", "mutate", "select_by_funnel", "simplify_by_score"])
def test_examples_run(name: str) -> None:
    target = getattr(program_search, name)
    tests = doctest.DocTestFinder(recurse=False).find(target, name, globs={"torch": torch, "nn": nn})
    assert tests and tests[0].examples
    for test in tests:
        told: list[str] = []
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append).failed == 0, "".join(told)


def test_the_example_of_the_package() -> None:
    assert doctest.testmod(program_search).failed == 0
