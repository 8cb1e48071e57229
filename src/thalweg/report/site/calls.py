"""How what a paper's entry names is called: signature, what it does, and the example of its docstring."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from thalweg.report.text import clean

_WIDTH = 76
_ROLE = re.compile(r":[\w:]+:`~?(?:[\w.]+\.)?([^`]+)`")


@dataclass(frozen=True)
class Call:
    """One importable thing.

    Args:
        path: its dotted name.
        signature: how it is called, defaults included, types left out; empty for what can't be called.
        summary: the first sentences of its docstring, as pieces of text and whether each is code.
        example: its docstring's examples as a program, with what they print as comments; empty if there is none.
    """

    path: str
    signature: str
    summary: tuple[tuple[str, bool], ...]
    example: str


def call(path: str) -> Call:
    """Look ``path`` up and read what its docstring says."""
    target = resolve(path)
    text = inspect.getdoc(target) or ""
    first = " ".join(re.split(r"\n\s*\n", text, maxsplit=1)[0].split()) if _own_docstring(target) else ""
    return Call(path, _signature(path, target), _pieces(first), _example(path, text) if first else "")


def resolve(path: str) -> Any:
    """The object of a dotted path that is known to lead somewhere; an attribute comes before a module of the same name."""
    first, *rest = path.split(".")
    found, name = importlib.import_module(first), first
    for part in rest:
        name = f"{name}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(name)
    return found


def _own_docstring(target: Any) -> bool:
    """Whether the docstring is about this object: a plain value has its type's."""
    return inspect.isclass(target) or getattr(target, "__doc__", None) != type(target).__doc__


def _signature(path: str, target: Any) -> str:
    if not callable(target):
        return ""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return ""
    texts, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            texts.append("*")
        starred |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        prefix = "*" * ((parameter.kind is parameter.VAR_POSITIONAL) + 2 * (parameter.kind is parameter.VAR_KEYWORD))
        default = "" if parameter.default is parameter.empty else f"={_default(parameter.default)}"
        texts.append(f"{prefix}{parameter.name}{default}")
    name = path.rsplit(".", 1)[-1]
    line = f"{name}({', '.join(texts)})"
    if len(line) <= _WIDTH:
        return line
    return f"{name}(\n" + textwrap.fill(", ".join(texts), _WIDTH - 4, initial_indent="    ", subsequent_indent="    ",
                                        break_long_words=False, break_on_hyphens=False) + "\n)"  # fmt: skip


def _default(value: Any) -> str:
    """A default as it would be typed; what has no such text, a function say, by its name."""
    if inspect.isroutine(value) or inspect.isclass(value):
        return value.__name__
    text = repr(value)
    return "..." if re.search(r" at 0x[0-9a-f]+", text) else text


def _pieces(text: str) -> tuple[tuple[str, bool], ...]:
    """Text with ``code`` and roles such as :class:`~torch.nn.Module` told apart."""
    marked = _ROLE.sub(r"``\1``", text)
    parts = re.split(r"``(.+?)``", clean(marked))
    return tuple((part, i % 2 == 1) for i, part in enumerate(parts) if part)


def _example(path: str, docstring: str) -> str:
    examples = doctest.DocTestParser().get_examples(docstring)
    lines = []
    for example in examples:
        lines += example.source.rstrip("\n").split("\n")
        lines += [f"# {line}" for line in example.want.rstrip("\n").split("\n") if line]
    program = "\n".join(lines)
    module, _, name = path.rpartition(".")
    taken = _imports(program)
    if lines and not re.search(rf"\bimport\b.*\b{re.escape(name)}\b|\b{re.escape(path)}\b", program):
        taken += [f"from {module} import {name}", ""]
    return clean("\n".join([*taken, *lines]))


def _imports(program: str) -> list[str]:
    """What docstrings take as imported, as torch's own do."""
    lines = []
    if re.search(r"(?<!from )(?<!import )\btorch\.", program) and not re.search(
        r"^import torch$", program, re.MULTILINE
    ):
        lines.append("import torch")
    if re.search(r"(?<![.\w])nn\.", program) and not re.search(r"\bimport nn\b", program):
        lines.append("from torch import nn")
    return lines
