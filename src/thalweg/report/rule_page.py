"""The table of all update rules in ``docs/optimizers.md``, written from the registry, docstrings, measured costs and results.

python -m thalweg.report.rule_page docs/optimizers.md      # make pages
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import thalweg.optim
from thalweg.catalog.load import papers
from thalweg.catalog.paper import Paper
from thalweg.catalog.status import results_folder, status
from thalweg.registry import Method, methods
from thalweg.report import marked
from thalweg.report.rule_costs import LAYERS, RANK, WIDTH, Costs, costs

OWN_PASSES = "own passes"
"""What stands for the costs of a rule that runs the model several times by itself."""


def with_tables(page: str, results: Path) -> str:
    """``page`` with the text between its ``rules`` comments replaced by the tables.

    Args:
        page: the text of ``docs/optimizers.md``.
        results: folder of results.

    Raises:
        ValueError: a table has no place in the page, or an update rule says nothing about when to use it.
    """
    found = [method for method in methods("optim").values() if method.target.__module__.startswith("thalweg.")]
    rules = [method for method in found if isinstance(method.target, type)]
    transforms = [method for method in found if not isinstance(method.target, type)]
    tables = {"optimizers": _table(rules, results), "transforms": _table(transforms, results), "others": _others(found)}
    return marked.with_tables(page, "rules", tables)


def _table(found: list[Method], results: Path) -> list[str]:
    lines = [
        "| rule | what it adds | state, bytes | words | flops | when to use it | our verdict |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    return lines + [_row(method, costs(method), results) for method in found]


def _row(method: Method, measured: Costs, results: Path) -> str:
    if not method.use:
        raise ValueError(f"{method.name} doesn't say when to use it: give use='...' to its @method")
    twice = f", {measured.gradients} gradients" if measured.gradients > 1 else ""
    words, flops = (OWN_PASSES if value is None else number(value) for value in (measured.words, measured.flops))
    return (
        f"| `{method.name}` | {adds(method.target)} | {number(measured.state_bytes)} | {words} "
        f"| {flops}{twice} | {method.use} | {_verdicts(method.target, results)} |"
    )


def adds(target: Callable[..., Any]) -> str:
    """The first line of a docstring, its arXiv ids as links."""
    line = (inspect.getdoc(target) or "").split("\n")[0].replace("``", "`").replace("|", "\\|").rstrip(".")
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", line)


def number(value: float) -> str:
    """Three digits, without a point where there is nothing behind it.

    Example:
        >>> number(8.0), number(0.2345678), number(2539.1)
        ('8', '0.235', '2540')
    """
    rounded = float(f"{value:.3g}")
    return str(int(rounded)) if rounded == int(rounded) else f"{rounded:g}"


def _verdicts(target: Callable[..., Any], results: Path) -> str:
    """Word and link of every paper that names the rule; the folder of results lies beside that of the page."""
    path = f"thalweg.optim.{target.__name__}"
    found = [_verdict(paper, results) for paper in papers().values() if path in paper.implements]
    return "; ".join(filter(None, found)) or "none yet"


def _verdict(paper: Paper, results: Path) -> str:
    found = status(paper, results)
    if not found.verdict:
        return ""
    explained = f", but explained by {found.explained_by}" if found.explained_by else ""
    return f"[{found.verdict}{explained}](../results/{paper.slug}/{found.scale}.json)"


def _others(found: list[Method]) -> list[str]:
    """Public optimizers that have no name in the registry."""
    named = {method.target for method in found}
    lines = []
    for name in thalweg.optim.__all__:
        item = getattr(thalweg.optim, name)
        if isinstance(item, type) and issubclass(item, torch.optim.Optimizer) and item not in named:
            lines.append(f"- `{name}`: {adds(item)}.")
    return lines


def main() -> None:
    """Rewrite the tables of the page that is named."""
    torch.set_num_threads(1)
    page = Path(sys.argv[1])
    page.write_text(with_tables(page.read_text(encoding="utf-8"), results_folder(None)), encoding="utf-8")
    print(f"{page}: costs on a decoder of width {WIDTH} with {LAYERS} blocks, rank {RANK}")


if __name__ == "__main__":
    main()
