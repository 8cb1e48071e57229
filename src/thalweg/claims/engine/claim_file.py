"""Finds claim files by their paper's slug, and says what is wrong with one."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from thalweg.catalog.load import papers, unknown_slug
from thalweg.claims.engine.contract import Claim, Panel, Scale
from thalweg.claims.engine.errors import ClaimError
from thalweg.tasks.fault import one_line, user_line

FOLDER = Path(__file__).resolve().parents[1]
"""Holds the claim files; every Python file directly in it is one."""

_PARTS = {"RULE": str, "SCALES": dict, "PANELS": tuple}


@dataclass(frozen=True)
class ClaimFile:
    """A claim and the file that it comes from.

    Args:
        slug: its paper's.
        path: the file.
        sha256: of the file's text, whatever its line ends.
        claim: the module.
    """

    slug: str
    path: Path
    sha256: str
    claim: Claim

    @property
    def headline(self) -> str:
        """What is claimed: the first line of the file's docstring."""
        return ((self.claim.__doc__ or "").strip().splitlines() or [""])[0]

    def where(self, error: BaseException) -> str:
        """``lion_k.py:120``: the innermost line of the claim file that an exception passed."""
        return self.path.name + user_line(error, str(self.path)).removeprefix(str(self.path))


def slugs() -> list[str]:
    """Slugs of all papers that have a claim file."""
    return sorted(path.stem.replace("_", "-") for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def find(name: str) -> Path:
    """The file of a claim, which isn't run yet.

    Args:
        name: a paper's slug, or a path that ends in ``.py``: a claim that isn't part of the package (yet).

    Raises:
        ValueError: there is none, with the nearest slug.
    """
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"{name}: there is no such file")
        if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", path.stem):
            raise ValueError(f"{name}: a claim's file is named after its paper, in lower case, as in lion_k.py")
        return path.resolve()
    known = slugs()
    if name in known:
        return FOLDER / f"{name.replace('-', '_')}.py"
    if name in papers():
        raise ValueError(f"there is no claim for {name!r} yet (thalweg check --all runs those that there are)")
    raise ValueError(unknown_slug(name, known, "claim"))


def load(name: str) -> ClaimFile:
    """The claim called ``name``; see :func:`find`.

    Raises:
        ValueError: there is none.
        ClaimError: its file raises, or lacks what :mod:`thalweg.claims.engine.contract` asks for.
    """
    path = find(name)
    slug = path.stem.replace("_", "-")
    try:
        module = _inside(path) if path.parent == Path(__file__).resolve().parents[1] else _outside(path)
    except (Exception, SystemExit) as error:
        line = path.name + user_line(error, str(path)).removeprefix(str(path))
        raise ClaimError(f"{slug}: {line} raised {one_line(error)}") from error
    problem = _problem(module)
    if problem:
        raise ClaimError(f"{slug}: {path.name} {problem}")
    return ClaimFile(slug, path, fingerprint(path), cast(Claim, module))


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's text with line ends as on Unix, so that a checkout on Windows has the same."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")).hexdigest()


def _inside(path: Path) -> ModuleType:
    return importlib.import_module(f"thalweg.claims.{path.stem}")


def _outside(path: Path) -> ModuleType:
    """Run a file that isn't in the package, anew each time, since it may have changed."""
    name = f"thalweg_claim_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look there
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _problem(module: ModuleType) -> str:
    """What a claim file lacks; empty if nothing."""
    for name, kind in _PARTS.items():
        if not isinstance(getattr(module, name, None), kind):
            return f"needs {name}, a {kind.__name__}"
    for name in ("run", "judge"):
        if not callable(getattr(module, name, None)):
            return f"needs a function {name}()"
    for name in ("smoke", "cpu"):
        if name not in module.SCALES:
            return f"needs the scale {name!r} in SCALES"
    for name, scale in module.SCALES.items():
        if not isinstance(scale, Scale) or not scale.seeds or len(set(scale.seeds)) < len(scale.seeds):
            return f"needs a Scale with seeds, each once, for {name!r} in SCALES"
    if not all(isinstance(panel, Panel) for panel in module.PANELS):
        return "needs PANELS made of Panel"
    return ""
