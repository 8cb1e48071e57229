"""What may import what: the packages of src/thalweg, by their source, and what ``import thalweg.optim`` really loads."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "thalweg"

SEAMS = ("init", "data", "nn", "adapt", "objective", "optim", "grow", "compress", "solve", "generate", "probe")
SHARED = {"linalg", "autodiff", "registry"}
MAY_IMPORT = {
    "linalg": set[str](),
    "autodiff": {"linalg"},
    "registry": set[str](),
    "testing": SHARED,
    "tasks": {*SEAMS, *SHARED},
    "race": {*SEAMS, *SHARED, "tasks"},
    "claims": {*SEAMS, *SHARED, "tasks", "race", "catalog"},
    "report": {*SEAMS, *SHARED, "tasks", "race", "claims", "catalog"},
    "catalog": {"registry"},
    "cli": {*SEAMS, *SHARED, "tasks", "race", "claims", "report", "catalog"},
    **dict.fromkeys(SEAMS, SHARED),
}
"""Parts of thalweg that each part may import, beside itself. ``cli`` is imported by none."""

EXCEPTIONS = {"race/orchestrate.py": {"report"}}
"""``race()`` hands its result over to be written as a report, its very last act; nothing else of race knows reports."""

OUTSIDE = {"torch", *sys.stdlib_module_names}


def imports(path: Path, root: Path = SOURCE) -> set[str]:
    """Dotted names of all modules that a file imports, at its top or inside functions."""
    package = ["thalweg", *path.relative_to(root).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "thalweg" else {module}
    return found


def files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem == "registry")


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_parts_import_only_what_stands_before_them(path: Path) -> None:
    part = part_of(path)
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("thalweg.")}
    foreign = inside - MAY_IMPORT[part] - {part, "__version__"} - EXCEPTIONS.get(str(path.relative_to(SOURCE)), set())
    assert not foreign, f"{part} must not import {', '.join(sorted(foreign))}"


@pytest.mark.parametrize(
    "path", [p for p in files() if part_of(p) in {*SEAMS, *SHARED}], ids=lambda p: str(p.relative_to(SOURCE))
)
def test_seams_need_torch_and_the_standard_library_only(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imports(path)} - OUTSIDE - {"thalweg"}
    assert not foreign, f"imports {', '.join(sorted(foreign))}"


def test_exceptions_are_still_needed() -> None:
    for name, parts in EXCEPTIONS.items():
        found = {module.split(".")[1] for module in imports(SOURCE / name) if module.startswith("thalweg.")}
        assert parts <= found, f"{name} needs no exception any more"


def test_nothing_imports_the_command_line() -> None:
    assert not [
        path
        for path in files()
        if part_of(path) != "cli" and any(name.startswith("thalweg.cli") for name in imports(path))
    ]


def test_the_rule_sees_every_way_to_import(tmp_path: Path) -> None:
    """The tests above would pass over imports that ``imports`` didn't find."""
    file = tmp_path / "optim" / "x.py"
    file.parent.mkdir()
    file.write_text(
        "import thalweg.race.plan as p\nfrom thalweg import report\nfrom ..tasks import task\nfrom . import y\n"
        "def f():\n    from thalweg.cli import main\n    import scipy.linalg\n"
    )
    found = imports(file, tmp_path)
    expected = "thalweg.race.plan thalweg.report thalweg.tasks thalweg.optim thalweg.cli scipy.linalg"
    assert found == set(expected.split())


def loaded_by(statement: str) -> set[str]:
    """Modules in a fresh interpreter after ``statement``."""
    code = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_optim_loads_torch_and_the_standard_library_only() -> None:
    loaded = loaded_by("import thalweg.optim")
    packages = {name.split(".")[0] for name in loaded - loaded_by("import torch")}
    assert packages - set(sys.stdlib_module_names) - {"torch"} == {"thalweg"}
    parts = {name.split(".")[1] for name in loaded if name.startswith("thalweg.")}
    assert parts == {"optim", "autodiff", "linalg", "registry"}
