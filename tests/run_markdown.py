"""Runs the code blocks of one Markdown file, in order, in the current folder: ``python run_markdown.py FILE``.

A fence's language says what happens to it:

- ``python`` blocks run in one namespace, one after the other.
- ``sh`` blocks run in bash, ``console`` blocks too (lines that begin with ``$``, what follows being what they print). Where
  all commands of a block are ``thalweg``, they run in this process, which spares loading torch for each; where all are
  ``torchrun``, in forks of this process.
- ``output`` is what the block before it printed; ``...`` stands for anything.
- other languages (``text``, ``json``, ...) are for reading.

An HTML comment on the line above changes that: ``<!-- not run: why -->`` leaves a block out, ``<!-- file: NAME -->`` writes it
to a file, ``<!-- module: NAME -->`` runs it as if it stood in that module of the package.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FENCE = re.compile(
    r"^(?:[ ]*<!--\s*(?P<mark>not run|file|module):\s*(?P<value>.*?)\s*-->[ ]*\n(?:[ ]*\n)?)?"
    r"^(?P<indent>[ ]*)```(?P<language>[\w+-]*)[ ]*\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

RUN = ("python", "sh", "console")
READ = ("output", "text", "json", "toml", "html")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text and first line, and what the comment above it says."""

    path: Path
    line: int
    language: str
    code: str
    not_run: str | None = None
    file: str | None = None
    module: str | None = None

    @property
    def place(self) -> str:
        """File and line, as in a traceback."""
        return f"{self.path.name}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """Every fenced block of a Markdown file, in order."""
    text = path.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        value = {match["mark"]: match["value"]}
        code = textwrap.dedent(match["code"])
        marks = (value.get(mark) for mark in ("not run", "file", "module"))
        found.append(Block(path, line, match["language"], code, *marks))
    return found


def commands(block: Block) -> str:
    """The commands of a shell block, as a script."""
    if block.language == "sh":
        return block.code
    return "\n".join(line[1:].strip() for line in block.code.splitlines() if line.startswith("$"))


def run(path: Path) -> None:
    """Run every block of a file; raises at the first that fails or prints something else than the page says."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(path):
        if block.file is not None:
            target = Path(block.file)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.code, encoding="utf-8")
        elif block.language == "output":
            compare(block, block.code, printed)
        elif block.not_run is None and block.language == "python":
            printed = run_python(block, namespace if block.module is None else {"__name__": block.module})
        elif block.not_run is None and block.language in RUN:
            printed = {"thalweg": run_thalweg, "torchrun": run_torchrun}.get(only_program(block), run_shell)(block)
            if block.language == "console":
                shown = "".join(x for x in block.code.splitlines(keepends=True) if not x.startswith("$"))
                compare(block, shown, printed)


def run_python(block: Block, namespace: dict[str, Any]) -> str:
    """Run a block in ``namespace``; what it printed. Tracebacks name the line of the Markdown file."""
    code = compile("\n" * (block.line - 1) + block.code, str(block.path), "exec", dont_inherit=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def run_shell(block: Block) -> str:
    """Run a block in bash, with this Python's programs first; what it printed on standard output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", commands(block)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path},
    )
    if done.returncode:
        raise RuntimeError(f"{block.place}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


def only_program(block: Block) -> str | None:
    """The program, if a block names no other and has nothing that a shell would have to do."""
    found = [shlex.split(line, comments=True) for line in commands(block).splitlines()]
    words = [word for line in found for word in line]
    plain = not any(word in ("|", "&&", ";", "&") or word[:1] in "<>" or "$" in word or "*" in word for word in words)
    programs = {line[0] for line in found if line}
    return programs.pop() if plain and len(programs) == 1 else None


def run_thalweg(block: Block) -> str:
    """Run the commands of a block in this process; what they printed on standard output."""
    from thalweg.cli import main

    printed, before = io.StringIO(), sys.argv
    try:
        for line in commands(block).splitlines():
            sys.argv = shlex.split(line)
            try:
                with contextlib.redirect_stdout(printed):
                    main()
            except SystemExit as end:
                if end.code:
                    raise RuntimeError(f"{block.place}: exit code {end.code}\n{printed.getvalue()}") from None
    finally:
        sys.argv = before
    return printed.getvalue()


def run_torchrun(block: Block) -> str:
    """Run a script on several processes of this machine, as ``torchrun`` would; what it printed on standard output."""
    from torch.distributed.run import parse_args
    from torch.multiprocessing import start_processes

    with tempfile.TemporaryFile("w+") as printed:
        for line in commands(block).splitlines():
            arguments = parse_args(shlex.split(line)[1:])
            assert arguments.standalone, f"{block.place}: more than one machine"
            with socket.socket() as free:
                free.bind(("localhost", 0))
                port = free.getsockname()[1]
            words = [arguments.training_script, *arguments.training_script_args]
            count = int(arguments.nproc_per_node)
            start_processes(be_rank, (count, port, words, printed.fileno()), nprocs=count, start_method="fork")
        printed.seek(0)
        return printed.read()


def be_rank(rank: int, count: int, port: int, words: list[str], stdout: int) -> None:
    """What one of the processes does."""
    os.dup2(stdout, 1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "localhost", **{key: str(value) for key, value in numbers.items()}})
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    sys.stdout.flush()


def compare(block: Block, wanted: str, got: str) -> None:
    """Raise if ``got`` isn't what the page shows."""
    if not doctest.OutputChecker().check_output(wanted, got, _LOOSELY):
        raise AssertionError(f"{block.place}: the page shows\n{wanted}\nbut this came out\n{got}")


if __name__ == "__main__":
    sys.path[0] = ""  # files of the current folder can be imported, as from a prompt
    os.environ.pop("THALWEG_STORAGE", None)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", COLUMNS="120")
    run(Path(sys.argv[1]).resolve())
