"""How far a paper has come: worked out from the code and the committed results, never written down."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.catalog.paper import Paper

DECIDING = ("gpu", "cpu")
"""Scales whose verdict is shown, the strongest first. A smoke run shows that an experiment runs, not what is true."""

RESULTS = "results"
_MISSING = "there is no such module"


@dataclass(frozen=True)
class Status:
    """How far a paper has come.

    Args:
        implemented: all of what the entry names can be imported, and it names something.
        verdict: the word of the strongest committed result; empty if there is none.
        because: its reason.
        explained_by: a simpler change that gives the same gain, where the verdict names one.
        scale: the scale of that result.
    """

    implemented: bool
    verdict: str = ""
    because: str = ""
    explained_by: str = ""
    scale: str = ""

    @property
    def word(self) -> str:
        """ "implemented" or "planned"."""
        return "implemented" if self.implemented else "planned"


def status(paper: Paper, results: Path | None = None) -> Status:
    """The status of one paper; imports what its entry names, so torch.

    Args:
        paper: the entry.
        results: folder of results; ``None`` takes :func:`results_folder`.
    """
    implemented = bool(paper.implements) and not broken_paths(paper)
    folder = results_folder(None) if results is None else results
    for scale in DECIDING:
        verdict = _verdict(folder / paper.slug / f"{scale}.json")
        if verdict:
            told = {key: str(verdict.get(key) or "") for key in ("because", "explained_by")}
            return Status(implemented, str(verdict["word"]), scale=scale, **told)
    return Status(implemented)


def broken_paths(paper: Paper) -> list[str]:
    """A line for each path in ``implements`` that leads nowhere, with the reason."""
    return [f"{path}: {reason}" for path in paper.implements if (reason := _unresolved(path))]


def wrong_finding(paper: Paper, results: Path) -> str:
    """Why the paper's finding doesn't tell of its stored verdict; empty if it does, or if there is no verdict."""
    found = status(paper, results)
    if not found.verdict or paper.finding_for(found.verdict):
        return ""
    says = f"{results / paper.slug / found.scale}.json says {found.verdict!r}"
    if paper.finding is None:
        return f"missing, though {says}; add one sentence that says what came out"
    return f"was written for {paper.finding.verdict!r}, but {says}; write it anew"


def results_folder(given: Path | str | None = None) -> Path:
    """Where results are: ``given``, else ``results/`` here, else that of the checkout that this package runs from.

    Where there is none yet, ``results/`` here.
    """
    if given is not None:
        return Path(given)
    here = Path(RESULTS)
    checkout = Path(__file__).resolve().parents[3]
    if not here.is_dir() and (checkout / "pyproject.toml").is_file() and (checkout / RESULTS).is_dir():
        return checkout / RESULTS
    return here


def _unresolved(path: str) -> str:
    """Why an import path leads nowhere; empty if it leads somewhere."""
    first, *rest = path.split(".")
    found, name, problem = _module(first)
    for part in rest:
        if problem:
            return problem
        if hasattr(found, part):
            found, name = getattr(found, part), f"{name}.{part}"
            continue
        if not hasattr(found, "__path__"):
            return f"{name} has no {part!r}"
        inner, inner_name, problem = _module(f"{name}.{part}")
        if problem == _MISSING:
            return f"{name} has no {part!r}"
        found, name = inner, inner_name
    return problem


def _module(name: str) -> tuple[Any, str, str]:
    """A module, its name, and why it can't be imported."""
    try:
        return importlib.import_module(name), name, ""
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None, name, _MISSING
        return None, name, f"importing {name} raised {type(error).__name__}: {error}"


def _verdict(path: Path) -> Mapping[str, Any]:
    """The verdict of a result file; empty if there is none. Damaged files are found by ``thalweg list --check``."""
    try:
        verdict = json.loads(path.read_text(encoding="utf-8"))["verdict"]
        return verdict if isinstance(verdict["word"], str) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
