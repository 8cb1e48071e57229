"""Reads ``papers.toml`` and says at once what is wrong with it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from thalweg.catalog.paper import SEAMS, Finding, Paper
from thalweg.registry import unknown

FILE = Path(__file__).with_name("papers.toml")
KINDS = ("method", "claim", "both")
LONGEST_FINDING = 160
"""Letters of a finding: two or three lines of a card in the gallery."""

_ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}")
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PATH = re.compile(r"thalweg(\.[A-Za-z_]\w*)+")
_FIELDS = {field.name: field.default is MISSING for field in fields(Paper)}
"""Fields of an entry, and whether it must have them."""


class CatalogError(ValueError):
    """The catalogue holds something wrong; the message is one line about the first, ``problems`` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        more = f" (and {len(problems) - 1} more: thalweg list --check)" if len(problems) > 1 else ""
        super().__init__(problems[0] + more)
        self.problems = problems


@cache
def papers() -> dict[str, Paper]:
    """All papers by slug, in the order of the file; read and checked once.

    Raises:
        CatalogError: the file can't be read or an entry is wrong.

    Example:
        >>> from thalweg.catalog import papers
        >>> papers()["lion"].arxiv
        '2302.06675'
    """
    return read(FILE)


def lookup(slug: str) -> Paper:
    """The paper called ``slug``; a :class:`ValueError` that suggests the nearest if there is none."""
    known = papers()
    if slug not in known:
        raise ValueError(unknown_slug(slug, known))
    return known[slug]


def unknown_slug(slug: str, known: Iterable[str], kind: str = "paper") -> str:
    """One line for an unknown slug: the nearest one, without the whole list, which would fill the screen."""
    text = unknown(kind, slug, known)
    return f"{text.partition(' (choose from')[0]} (thalweg list shows all; thalweg search finds by meaning)"


def read(path: Path) -> dict[str, Paper]:
    """Papers of a TOML file with one ``[[paper]]`` table an entry; see :class:`Paper` for their fields.

    Import paths are not followed here, only their form is checked: :func:`thalweg.catalog.status.broken_paths` does that.

    Raises:
        CatalogError: naming the entry and its field.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError([f"{path}: can't be read: {error.strerror or error}"]) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError([f"{path.name}: not valid TOML: {error}"]) from None
    entries = data.get("paper", [])
    problems = [f"{path.name}: unknown table {name!r}; every entry is a [[paper]]" for name in data if name != "paper"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CatalogError([f"{path.name}: 'paper' must be an array of tables: every entry begins with [[paper]]"])
    found: dict[str, Paper] = {}
    for number, entry in enumerate(entries, 1):
        wrong = _problems(entry)
        slug = str(entry.get("slug", ""))
        if not wrong and slug in found:
            wrong = [f"slug: {slug!r} is given twice"]
        problems += [
            f"{path.name}, {f'entry {slug!r}' if slug else f'entry number {number}'}: {line}" for line in wrong
        ]
        if not wrong:
            values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
            finding = Finding(**values.pop("finding")) if "finding" in values else None
            found[slug] = Paper(**values, finding=finding)
    if problems:
        raise CatalogError(problems)
    return found


def _problems(entry: Mapping[str, Any]) -> list[str]:
    """What is wrong with one entry, each beginning with the field's name."""
    lines = [unknown("field", key, _FIELDS) for key in entry if key not in _FIELDS]
    lines += [f"{key}: missing" for key, needed in _FIELDS.items() if needed and key not in entry]
    lines += [f"{key}: {wrong}" for key, value in entry.items() if key in _FIELDS and (wrong := _wrong(key, value))]
    return lines


def _wrong(key: str, value: Any) -> str:
    """What is wrong with one value; empty if it is good."""
    if key == "year":
        is_year = isinstance(value, int) and not isinstance(value, bool) and 1900 <= value <= 2100
        return "" if is_year else f"must be a year such as 2023, not {value!r}"
    if key in ("topics", "implements"):
        return _wrong_list(key, value)
    if key == "finding":
        return _wrong_finding(value)
    if not isinstance(value, str):
        return f"must be text in quotes, not {value!r}"
    if key == "arxiv":
        is_id = not value or _ARXIV.fullmatch(value)
        return "" if is_id else f"must be an id such as '2302.06675' or 'cs/0112017', without a version, not {value!r}"
    if key == "slug" and not _SLUG.fullmatch(value):
        return f"may hold lower-case letters and digits with single hyphens between, not {value!r}"
    if key == "seam" and value not in SEAMS:
        return unknown("seam", value, SEAMS)
    if key == "kind" and value not in KINDS:
        return unknown("kind", value, KINDS)
    return "" if value.strip() else "must not be empty"


def _wrong_list(key: str, value: Any) -> str:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        return f"must be a list of texts, not {value!r}"
    if len(set(value)) < len(value):
        return "holds the same text twice"
    if key == "topics":
        upper = next((item for item in value if item != item.lower()), None)
        return "" if upper is None else f"must be lower case: {upper!r}"
    bad = next((item for item in value if not _PATH.fullmatch(item)), None)
    return "" if bad is None else f"must hold import paths such as 'thalweg.optim.Lion', not {bad!r}"


def _wrong_finding(value: Any) -> str:
    if not isinstance(value, dict) or set(value) != {"verdict", "text"}:
        return 'must be a table such as { verdict = "partly", text = "One sentence." }'
    for key, part in value.items():
        if not isinstance(part, str) or not part.strip():
            return f"its {key} must be text in quotes, not {part!r}"
    text: str = value["text"]
    if len(text) > LONGEST_FINDING:
        return f"its text has {len(text)} letters, at most {LONGEST_FINDING} are allowed: {text[:40]!r}..."
    if not text[0].isupper() or not text.endswith(".") or re.search(r"[.!?]\s", text):
        return f"its text must be one sentence, from a capital letter to a full stop: {text!r}"
    number = re.search(r"\d\S*", text)
    return f"its text must say in words what {number[0]!r} says: numbers come from the result" if number else ""
