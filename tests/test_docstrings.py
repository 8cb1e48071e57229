"""Docstrings of public names: each of a seam has an example, all examples run, and formulas and names in them are understood."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from thalweg.report.site.calls import resolve
from thalweg.report.site.docstring import sections
from thalweg.report.site.reference import AROUND, SEAMS, public_names

MODULES = [path for path in (*SEAMS, *AROUND) if importlib.util.find_spec(path)]
NAMES = [f"{module}.{name}" for module in MODULES for name in public_names(importlib.import_module(module))]
OF_SEAMS = [path for path in NAMES if path.rpartition(".")[0] in SEAMS]
TRAINS = {"thalweg.race.race"}
"""Examples that train for longer than a test should; the tests of their package do as much."""

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def docstring(path: str) -> str:
    """What is written for this very object; a plain value only has its type's."""
    target = resolve(path)
    own = inspect.isclass(target) or getattr(target, "__doc__", None) != type(target).__doc__
    return (inspect.getdoc(target) or "") if own else ""


def examples(path: str) -> list[Any]:
    return doctest.DocTestParser().get_examples(docstring(path))


def run(text: str, names: dict[str, Any]) -> str:
    """What is wrong with the examples of a text; empty if they do as they say."""
    test = doctest.DocTestParser().get_doctest(text, dict(names), "docstring", None, 0)
    told: list[str] = []
    doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=told.append)
    return "".join(told)


@pytest.mark.parametrize("path", [path for path in NAMES if examples(path) and path not in TRAINS])
def test_examples_run(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = run(docstring(path), {"torch": torch, "nn": torch.nn, path.rpartition(".")[2]: resolve(path)})
    assert found == ""


def test_every_name_of_a_seam_has_an_example() -> None:
    assert [path for path in OF_SEAMS if not examples(path)] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_name_says_what_it_is(module: str) -> None:
    silent = [
        path for path in NAMES if path.rpartition(".")[0] == module and callable(resolve(path)) and not docstring(path)
    ]
    assert silent == [] and (inspect.getdoc(importlib.import_module(module)) or "").strip()


def test_formulas_are_understood() -> None:
    """Else the reference of the API shows their LaTeX; what is missing is easily added to ``report/site/mathml.py``."""
    shown = {
        path: [row for s in sections(docstring(path)) for block in s.blocks for row in block.rows] for path in NAMES
    }
    assert [path for path, rows in shown.items() if any('class="source"' in cell for row in rows for cell in row)] == []


@pytest.mark.parametrize("module", MODULES)
def test_names_in_docstrings_lead_somewhere(module: str) -> None:
    for path in (path for path in NAMES if path.rpartition(".")[0] == module):
        for name in re.findall(r":(?:class|func|meth|data|mod):`~?(thalweg\.[\w.]+)`", docstring(path)):
            try:
                resolve(name)
            except (ImportError, AttributeError):
                pytest.fail(f"the docstring of {path} names {name}, which isn't there")


def test_wrong_examples_are_found() -> None:
    assert run(">>> 1 + 1\n2\n", {}) == "" and run(">>> f(2)\n4\n", {"f": lambda x: 2 * x}) == ""
    assert "Expected" in run(">>> 1 + 1\n3\n", {}) and "NameError" in run(">>> undefined\n", {})
