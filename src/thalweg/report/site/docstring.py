"""Docstrings as pages show them: paragraphs, formulas, lists, tables, and the sections of Google's style."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from thalweg.report.site.mathml import MathError, mathml
from thalweg.report.text import clean

Link = Callable[[str], str]
"""The address of what a role such as ``:class:`~thalweg.optim.Lion``` names; empty if it has no page."""

SECTIONS = ("Args", "Attributes", "Shape", "State", "Returns", "Yields", "Raises", "Warns", "Example", "Examples")

_NAMED = ("Args", "Attributes", "Raises", "Warns")
"""Sections made of items that begin with a name and a colon."""

_INLINE = re.compile(
    r"``(?P<code>.+?)``|:(?P<role>[\w:]+):`(?P<target>[^`]+)`|\barXiv:(?P<arxiv>\d{4}\.\d{4,5})|`(?P<plain>[^`]+)`"
    r"|(?<![\w*])\*\*(?P<strong>[^\s*](?:[^*]*[^\s*])?)\*\*(?![\w*])"
    r"|(?<![\w*])\*(?P<stress>[^\s*](?:[^*]*[^\s*])?)\*(?![\w*])"
)


@dataclass(frozen=True)
class Block:
    """A piece of a docstring.

    Args:
        kind: "text", "formula", "code", "list", "table" or "names" (names and what they mean).
        rows: its content: one row with one cell for the first three, a row an item for the others.
    """

    kind: Literal["text", "formula", "code", "list", "table", "names"]
    rows: tuple[tuple[Markup, ...], ...]


@dataclass(frozen=True)
class Section:
    """A section; the one without a name comes first."""

    name: str
    blocks: tuple[Block, ...]


def sections(text: str, link: Link = lambda name: "") -> list[Section]:
    """The sections of a docstring whose indentation is gone, as ``inspect.getdoc`` gives it.

    Args:
        text: the docstring.
        link: where names lead.

    Example:
        >>> from thalweg.report.site.docstring import sections
        >>> [section.name for section in sections("Doubles x.\\n\\nArgs:\\n    x: a number.\\n\\nReturns:\\n    Twice x.")]
        ['', 'Args', 'Returns']
    """
    parts: list[tuple[str, list[str]]] = [("", [])]
    for line in clean(text).splitlines():
        found = re.match(rf"({'|'.join(SECTIONS)}):(?:\s+(.*))?$", line)
        if found:
            parts.append((found[1], [found[2]] if found[2] else []))
        elif line and not line[0].isspace() and parts[-1][0] not in ("", "Shape", "State"):
            parts.append(("", [line]))  # prose goes on after a section
        else:
            parts[-1][1].append(line)
    made = [Section(name, tuple(_section(name, _dedented(lines), link))) for name, lines in parts]
    return [section for section in made if section.blocks]


def inline(text: str, link: Link = lambda name: "") -> Markup:
    """One paragraph: code, formulas, stress, and names and papers as links."""
    made, at = Markup(""), 0
    text = " ".join(text.split())
    for match in _INLINE.finditer(text):
        made += _plain(text[at : match.start()]) + _marked(match, link)
        at = match.end()
    return made + _plain(text[at:])


def _plain(text: str) -> Markup:
    """Text with the backslashes gone that keep a sign from being markup."""
    return escape(re.sub(r"\\([|*`_\\])", r"\1", text))


def _marked(match: re.Match[str], link: Link) -> Markup:
    if match["role"] == "math":
        return _formula(match["target"])
    if match["role"]:
        target = match["target"].removeprefix("~")
        shown = target.rpartition(".")[2] if match["target"].startswith("~") else target
        address = link(target)
        if address:
            return Markup('<a href="{}"><code>{}</code></a>').format(address, shown)
        return Markup("<code>{}</code>").format(shown)
    if match["arxiv"]:
        return Markup('<a href="https://arxiv.org/abs/{0}" rel="noreferrer">arXiv:{0}</a>').format(match["arxiv"])
    if match["strong"]:
        return Markup("<strong>{}</strong>").format(match["strong"])
    if match["stress"]:
        return Markup("<em>{}</em>").format(match["stress"])
    return Markup("<code>{}</code>").format(match["code"] or match["plain"])


def _formula(tex: str, display: bool = False) -> Markup:
    """A formula; as its source where it holds what isn't known, which is no reason to have no page. A test looks for these."""
    try:
        return mathml(tex, display)
    except MathError:
        return Markup('<code class="source">{}</code>').format(tex)


def _section(name: str, text: str, link: Link) -> list[Block]:
    if name in ("Example", "Examples"):
        return [Block("code", ((escape(text),),))] if text else []
    if name in _NAMED:
        return _names(text, link)
    return _blocks(text, link)


def _names(text: str, link: Link) -> list[Block]:
    """Items such as ``lr: learning rate``; their further lines are indented."""
    rows: list[tuple[str, str]] = []
    for line in text.splitlines():
        found = re.match(r"([^\s:][^:]*?):(?:\s+(.*))?$", line)
        if found:
            rows.append((found[1], found[2] or ""))
        elif rows and (not line or line[0].isspace()):
            rows[-1] = (rows[-1][0], f"{rows[-1][1]} {line.strip()}")
        elif line:
            return _blocks(text, link)  # prose, as in "See X"
    return [Block("names", tuple((escape(name), inline(said, link)) for name, said in rows))] if rows else []


def _blocks(text: str, link: Link) -> list[Block]:
    """Paragraphs, formulas, literal blocks, lists and tables of a text."""
    made: list[Block] = []
    literal = False
    for part in re.split(r"\n\s*\n(?=\S)|\n(?=\.\. math::)|(?<=\n)(?=- )", text.strip("\n")):
        part = part.strip("\n")
        if literal and part[:1].isspace():
            made.append(Block("code", ((escape(textwrap.dedent(part)),),)))
            continue
        literal = False
        if part.startswith(".. math::"):
            formula, _, rest = part.removeprefix(".. math::").partition("\n\n")
            made.append(Block("formula", ((_formula(formula.strip(), display=True),),)))
            part = rest
        if re.match(r"=+( +=+)+\s*$", part.splitlines()[0] if part.strip() else ""):
            made.append(_table(part.splitlines(), link))
        elif part.startswith("- "):
            row = (inline(part.removeprefix("- "), link),)
            rows = made.pop().rows if made and made[-1].kind == "list" else ()
            made.append(Block("list", (*rows, row)))
        elif part.strip():
            made += _prose(part, link)
            literal = part.endswith("::")
    return made


def _prose(part: str, link: Link) -> list[Block]:
    """A paragraph, with the indented block after ``::`` that it may end in, or an example inside of prose."""
    if part.startswith(">>> "):
        return [Block("code", ((escape(part),),))]
    text, colons, after = part.partition("::\n")
    if not colons:
        return [Block("text", ((inline(re.sub(r"::$", ":", part), link),),))]
    return [
        Block("text", ((inline(f"{text}:", link),),)),
        Block("code", ((escape(textwrap.dedent(after).strip("\n")),),)),
    ]


def _table(lines: list[str], link: Link) -> Block:
    """A table whose columns stand under runs of ``=``; its first row is the head."""
    starts = [match.start() for match in re.finditer("=+", lines[0])]
    spans = list(zip(starts, [*starts[1:], None], strict=True))
    rows: list[list[str]] = []
    for line in lines[1:]:
        if line.strip() and set(line) - set("= "):
            cells = [line[start:end].strip() for start, end in spans]
            if rows and not cells[0]:
                rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
            else:
                rows.append(cells)
    return Block("table", tuple(tuple(inline(cell, link) for cell in row) for row in rows))


def _dedented(lines: list[str]) -> str:
    """Lines without their common indentation; a text that began beside the section's name keeps its place."""
    first = lines[0] if lines and lines[0][:1].strip() else None
    body = textwrap.dedent("\n".join(lines if first is None else lines[1:]))
    return (body if first is None else f"{first}\n{body}").strip("\n")
