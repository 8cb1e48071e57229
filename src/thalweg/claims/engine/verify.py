"""Looks whether stored results still hold: judged again from their numbers, by the claim files that are here now."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from thalweg.catalog.load import CatalogError, papers
from thalweg.catalog.status import broken_paths, wrong_finding
from thalweg.claims.engine.claim_file import ClaimFile, load, slugs
from thalweg.claims.engine.contract import Result, Verdict
from thalweg.claims.engine.errors import ClaimError
from thalweg.claims.engine.measured import good_verdict
from thalweg.claims.engine.storage import figure_path, read_result, result_files
from thalweg.tasks.fault import one_line


def all_problems(results: Path) -> list[str]:
    """A line for each thing that is wrong with the catalogue, the claim files or the results of a folder.

    Imports all that the catalogue names and all claim files; nothing is run.
    """
    try:
        known = papers()
    except CatalogError as error:
        return error.problems
    lines = [f"papers.toml, entry {p.slug!r}: implements: {line}" for p in known.values() for line in broken_paths(p)]
    findings = ((slug, wrong_finding(paper, results)) for slug, paper in known.items())
    lines += [f"papers.toml, entry {slug!r}: finding: {line}" for slug, line in findings if line]
    for slug in slugs():
        if slug not in known:
            lines.append(f"{slug}: there is a claim file, but no paper of this name in the catalogue")
        try:
            load(slug)
        except ClaimError as error:
            lines.append(str(error))
    return lines + problems(results, known)


def problems(results: Path, known: Collection[str]) -> list[str]:
    """A line for each thing that is wrong with the results of a folder; nothing is run.

    Reported are files that aren't results or were edited, results of papers that the catalogue doesn't have, of claims that
    are gone or whose file has changed since, verdicts that the stored numbers don't give, and missing figures.

    Args:
        results: the folder.
        known: the papers of the catalogue.
    """
    lines = []
    for path in result_files(results):
        lines += [line if line.startswith(str(path)) else f"{path}: {line}" for line in _problems(results, path, known)]
    for figure in sorted(results.glob("*/*.svg")):
        if not figure.with_suffix(".json").exists() and not figure.parent.name.startswith("."):
            lines.append(f"{figure}: is the figure of no result; remove it")
    return lines


def trusted(path: Path, file: ClaimFile) -> Result | None:
    """A finished result of just this claim file, if there is one and it holds."""
    try:
        result = read_result(path)
    except ClaimError:
        return None
    same = (result.slug, result.scale) == (file.slug, path.stem)
    return result if same and not _disagreement(result, file) else None


def judged_again(result: Result, file: ClaimFile) -> Verdict:
    """The verdict on the stored numbers.

    Raises:
        ClaimError: ``judge`` raises or gives no verdict.
    """
    try:
        return good_verdict(file.claim.judge(list(result.measurements)))
    except ClaimError:
        raise
    except Exception as error:
        raise ClaimError(f"judge() raised {one_line(error)}") from error


def _problems(results: Path, path: Path, known: Collection[str]) -> list[str]:
    try:
        result = read_result(path)
    except ClaimError as error:
        return [str(error)]
    lines = []
    if (result.slug, result.scale) != (path.parent.name, path.stem):
        lines.append(f"is the result of {result.slug!r} at scale {result.scale!r}; it belongs elsewhere")
    if result.slug not in known:
        lines.append(f"there is no paper {result.slug!r} in the catalogue")
    else:
        try:
            wrong = _disagreement(result, load(result.slug))
        except (ValueError, ClaimError) as error:
            wrong = str(error)
        lines += [wrong] if wrong else []
    if not figure_path(results, path.parent.name, path.stem).exists():
        lines.append(
            f"its figure {path.stem}.svg is missing; thalweg check {result.slug} --scale {result.scale} --resume draws it"
        )
    return lines


def _disagreement(result: Result, file: ClaimFile) -> str:
    """Why a result doesn't follow from this claim file; empty if it does."""
    again = f"; run thalweg check {result.slug} --scale {result.scale}"
    if result.claim_sha256 != file.sha256:
        return f"comes from another version of {file.path.name}{again}"
    scale = file.claim.SCALES.get(result.scale)
    if scale is None or result.seeds != scale.seeds or len(result.measurements) != len(scale.seeds):
        return f"its seeds aren't those of {file.path.name}{again}"
    if result.rule != file.claim.RULE:
        return f"its rule isn't that of {file.path.name}{again}"
    try:
        verdict = judged_again(result, file)
    except ClaimError as error:
        return str(error)
    if verdict != result.verdict:
        return f"says {_words(result.verdict)}, but its numbers give {_words(verdict)}{again}"
    return ""


def _words(verdict: Verdict) -> str:
    explained = f", explained by {verdict.explained_by}" if verdict.explained_by else ""
    return f"{verdict.word!r} ({verdict.because}{explained})"
