"""C++ made into functions, once for a machine: what was built is found again on disk by later processes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

_FLAGS = ("-O3", "-march=native", "-fopenmp", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
"""Every sum and product is rounded, as in eager mode. Of errors and traps nobody asks; without them loops use wide registers."""

_SECONDS = 120


def built(source: str) -> ctypes.CDLL:
    """The library that a C++ program makes. Its threads are torch's own.

    Raises:
        OSError: it can't be built here.
    """
    if not sys.platform.startswith("linux"):
        raise OSError(f"no loops are built on {sys.platform}")
    compiler = tuple(shlex.split(os.environ.get("CXX") or "g++"))
    named = "\0".join((source, *_FLAGS, *compiler, _version(compiler), _processor()))
    key = hashlib.sha256(named.encode()).hexdigest()[:32]
    folder = _folder()
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as own:
            program, made, linked = Path(own, "loop.cpp"), Path(own, "loop.o"), Path(own, "loop.so")
            program.write_text(source)
            _run(*compiler, *_FLAGS, "-c", str(program), "-o", str(made))
            # Linked without OpenMP's library: what torch has loaded is used, or two pools of threads would fight over the cores.
            _run(*compiler, "-shared", str(made), "-o", str(linked), "-lm")
            linked.replace(library)  # whole or not at all, whoever else builds it
    return ctypes.CDLL(str(library))


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS).stdout
    except subprocess.SubprocessError as error:
        raise OSError(getattr(error, "stderr", None) or str(error)) from error


def _folder() -> Path:
    """Where libraries are kept; nobody else may write there."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(root, "thalweg", "loops")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
        if found.st_uid == os.getuid() and not found.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # it can't be made, or there is no home
        pass
    return Path(_folder_of_this_process().name)


@functools.cache
def _folder_of_this_process() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="thalweg-loops-")


@functools.cache
def _version(compiler: tuple[str, ...]) -> str:
    return _run(*compiler, "--version")


@functools.cache
def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    )
