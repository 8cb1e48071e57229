"""Every code block of the documentation runs, and every link in it leads somewhere."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from thalweg.cli import app

ROOT = Path(__file__).resolve().parent.parent
RUNNER = Path(__file__).with_name("run_markdown.py")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = sorted({*PAGES, *ROOT.glob("*.md")})

spec = importlib.util.spec_from_file_location("run_markdown", RUNNER)
assert spec is not None and spec.loader is not None
run_markdown = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = run_markdown
spec.loader.exec_module(run_markdown)

BLOCKS = [block for page in PAGES for block in run_markdown.blocks(page)]
NOT_RUN = [block for block in BLOCKS if block.not_run is not None]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_run(page: Path, tmp_path: Path, start_python: Callable[..., Any]) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    program = start_python(str(RUNNER), str(page), cwd=tmp_path)
    _, said = program.communicate(timeout=280)
    assert program.returncode == 0, said[-6000:]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_fence_is_a_block_of_a_known_kind(page: Path) -> None:
    found = run_markdown.blocks(page)
    fences = re.findall(r"^ *```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(found)
    for block in found:
        assert block.language in (*run_markdown.RUN, *run_markdown.READ), f"{block.place}: language {block.language!r}"


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.place)
def test_what_is_not_run_says_why_and_can_be_read(block: Any) -> None:
    assert block.language in run_markdown.RUN, "only code needs the mark"
    assert len(block.not_run.split()) >= 2, f"{block.place}: say why it isn't run"
    if block.language == "python":
        compile(block.code, block.place, "exec")
        return
    joined = run_markdown.commands(block).replace("\\\n", " ")
    for line in joined.splitlines():
        check_words(shlex.split(line, comments=True))


def check_words(words: list[str]) -> None:
    """Commands that aren't run still have to exist: subcommands and options, make targets, extras of the package."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    if words[:1] == ["make"]:
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[:1] == ["thalweg"]:
        group = typer.main.get_command(app)
        group.commands[words[1]].make_context(words[1], words[2:])
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for wanted in re.findall(r"(?:thalweg|\.)\[([\w,]+)\]", " ".join(words)):
            assert set(wanted.split(",")) <= set(extras)


def test_files_shown_are_the_files_of_the_repository() -> None:
    for block in BLOCKS:
        if block.file is not None and (ROOT / block.file).exists():
            assert block.code == (ROOT / block.file).read_text(encoding="utf-8"), (
                f"{block.place}: differs from the file"
            )


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.is_relative_to(ROOT) and goal.exists(), f"{name(page)}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(goal), f"{name(page)}: {target} has no such heading"


def links(page: Path) -> list[str]:
    """Targets of links and images that aren't web addresses, code left out."""
    text = re.sub(r"^( *)```.*?^\1```|`[^`\n]+`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", text)
    found += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, re.MULTILINE)
    found += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, as GitHub names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+\s+(.*?)\s*#*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_are_listed() -> None:
    index = links(ROOT / "docs" / "README.md")
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(index)


def test_a_wrong_output_a_failing_block_and_a_missing_link_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in (
        "```python\nprint(1)\n```\n\n```output\n2\n```\n",
        "```python\nraise ValueError\n```\n",
        "```sh\nfalse\ntrue\n```\n",
        "```console\n$ echo a\nb\n```\n",
    ):
        page.write_text(text)
        done = subprocess.run([sys.executable, str(RUNNER), str(page)], cwd=tmp_path, capture_output=True)
        assert done.returncode != 0, text
    page.write_text("<!-- not run: it fails -->\n```sh\nfalse\n```\n\n<!-- file: a.py -->\n```python\nx = 1\n```\n")
    done = subprocess.run([sys.executable, str(RUNNER), str(page)], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and (tmp_path / "a.py").read_text() == "x = 1\n"
    page.write_text('[a](b.md) ![c](d.png "e") <img src="f.svg"> `[no](no)` [web](https://example.org)\n\n[g]: h.md\n')
    assert sorted(links(page)) == ["b.md", "d.png", "f.svg", "h.md"]
