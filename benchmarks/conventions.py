"""Which conventions of ``torch.optim`` the optimizers of torch, of its peers and of this package keep, by ``check_optimizer``.

    python benchmarks/conventions.py                    # everything, some minutes
    python benchmarks/conventions.py torch lion-pytorch # these packages only; the others' results stay

Writes ``benchmarks/results/conventions.json``, and the tables of ``docs/check-optimizer.md`` from it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from thalweg.report import marked
from thalweg.testing import CHECKS, check_optimizer

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "conventions.json"
PAGE = ROOT / "docs" / "check-optimizer.md"
SHAPES = ((4, 3), (3,), (2, 3, 2, 2))
"""A matrix, a vector and a convolution; what some peers do with scalars is the check ``scalars`` of its own."""
RATES = (None, 0.01, 0.1, 1.0)
"""Learning rates in the order in which they are tried until 30 steps lower a sum of squares; None is the class's own."""
PATIENCE = 20.0
"""Seconds of CPU time for one class."""

Classes = dict[str, Callable[..., torch.optim.Optimizer]]


def torch_classes() -> Classes:
    """All that step without a closure and take dense gradients."""
    skipped = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}
    found = {name: cls for name, cls in vars(torch.optim).items() if isinstance(cls, type) and name not in skipped}
    return {name: cls for name, cls in found.items() if issubclass(cls, torch.optim.Optimizer)}


def thalweg_classes() -> Classes:
    """By their registered names; those that need closures have tests of their own."""
    optim = importlib.import_module("thalweg.optim")
    registry = importlib.import_module("thalweg.registry")
    found = {name: registry.lookup(name, "optim").target for name in optim.list_optimizers()}
    return {cls.__name__: cls for cls in found.values() if not cls.needs_closure}


def lion_pytorch_classes() -> Classes:
    """The one that there is."""
    return {"Lion": importlib.import_module("lion_pytorch").Lion}


def pytorch_optimizer_classes() -> Classes:
    """All that it lists and that aren't torch's own."""
    package = importlib.import_module("pytorch_optimizer")
    found = [package.load_optimizer(name) for name in package.get_supported_optimizers()]
    return {cls.__name__: cls for cls in found if cls.__module__.startswith("pytorch_optimizer")}


def heavyball_classes() -> Classes:
    """All that it exports, uncompiled: what is checked is what they do, and compiling each would take an hour."""
    package = importlib.import_module("heavyball")
    importlib.import_module("heavyball.utils").compile_mode = None
    found = {name: cls for name, cls in vars(package).items() if isinstance(cls, type)}
    bases = {"SOAPBase", "PSGDBase", "SAMWrapper", "SplitOpt"}
    return {n: c for n, c in found.items() if issubclass(c, torch.optim.Optimizer) and n not in bases}


PACKAGES: dict[str, Callable[[], Classes]] = {
    "torch": torch_classes,
    "thalweg": thalweg_classes,
    "lion-pytorch": lion_pytorch_classes,
    "pytorch_optimizer": pytorch_optimizer_classes,
    "heavyball": heavyball_classes,
}


def examined(make: Callable[..., torch.optim.Optimizer]) -> dict[str, Any]:
    """What the checks find of one class: its failures with what was found, or why it wasn't run."""
    settings, reason = _settings(make)
    if settings is None:
        return {"not run": reason}
    outcomes = check_optimizer(make, shapes=SHAPES, skip=("scalars",), on_fail="return", **settings)
    outcomes += check_optimizer(make, shapes=((), (3,)), checks=["scalars"], on_fail="return", **settings)
    return {
        "settings": settings,
        "failed": {o.check: _short(o.message) for o in outcomes if o.status == "failed"},
        "not applicable": [o.check for o in outcomes if o.status == "not applicable"],
    }


def _settings(make: Callable[..., torch.optim.Optimizer]) -> tuple[dict[str, float] | None, str]:
    """The first learning rate that goes down a sum of squares; if none does, why the first failed."""
    first = ""
    for lr in RATES:
        settings = {} if lr is None else {"lr": lr}
        check = "goes_down_on_a_quadratic"
        (outcome,) = check_optimizer(make, shapes=SHAPES, checks=[check], on_fail="return", **settings)
        if outcome.status == "passed":
            return settings, ""
        first = first or _short(outcome.message)
    return None, first


def _short(message: str, length: int = 110) -> str:
    line = " ".join(message.split())
    return line if len(line) <= length else line[: length - 3] + "..."


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Raise a TimeoutError where something takes more CPU time."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"takes more than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def measure(package: str) -> dict[str, Any]:
    """All classes of a package."""
    classes = PACKAGES[package]()
    found = {}
    for place, (name, make) in enumerate(sorted(classes.items())):
        print(f"\r{package}: {place + 1} of {len(classes)} {name:<30}", end="", file=sys.stderr, flush=True)
        torch.manual_seed(0)
        try:
            with patience(PATIENCE), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = examined(make)
        except TimeoutError as error:
            found[name] = {"not run": str(error)}
    print(file=sys.stderr)
    return {"version": metadata.version(package), "classes": found}


def with_tables(page: str, result: dict[str, Any]) -> str:
    """The page with the tables between its markers made anew."""
    tables = {"packages": _packages_table(result), "checks": _checks_table(result), "torch": _torch_table(result)}
    return marked.with_tables(page, "conventions", tables)


def _run(found: dict[str, Any]) -> dict[str, Any]:
    """The classes of a package that were run."""
    return {name: own for name, own in found["classes"].items() if "not run" not in own}


def _packages_table(result: dict[str, Any]) -> list[str]:
    lines = [
        "| package | classes | keep all conventions | failures a class, median | most | not run |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for package in PACKAGES:
        if package not in result["packages"]:
            continue
        found = result["packages"][package]
        run = _run(found)
        counts = sorted(len(own["failed"]) for own in run.values())
        lines.append(
            f"| {package} {found['version']} | {len(run)} | {counts.count(0)} | {counts[len(counts) // 2]} | {counts[-1]} | "
            f"{len(found['classes']) - len(run)} |"
        )
    return lines


def _checks_table(result: dict[str, Any]) -> list[str]:
    packages = [package for package in PACKAGES if package in result["packages"]]
    runs = {package: _run(result["packages"][package]) for package in packages}
    counts = {
        package: Counter(check for own in run.values() for check in own["failed"]) for package, run in runs.items()
    }
    lines = [
        f"| check | what is expected | {' | '.join(f'{p} ({len(runs[p])})' for p in packages)} |",
        f"|---|---|{'--:|' * len(packages)}",
    ]
    for check, function in CHECKS.items():
        numbers = [str(counts[package][check] or "") for package in packages]
        if any(numbers):
            lines.append(f"| `{check}` | {inspect.getdoc(function).splitlines()[0]} | {' | '.join(numbers)} |")  # type: ignore[union-attr]
    return lines


def _torch_table(result: dict[str, Any]) -> list[str]:
    lines = ["| class | check | what was found |", "|---|---|---|"]
    for name, own in _run(result["packages"]["torch"]).items():
        lines += [
            f"| `{name}` | `{check}` | {message} |"
            for check, message in own["failed"].items()
            if check != "loading_copies"
        ]
    return lines


def main(packages: list[str]) -> None:
    """Measure, store, and write the page."""
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"packages": {}}
    for package in packages or list(PACKAGES):
        result["packages"][package] = measure(package)
        result["torch"] = torch.__version__
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if PAGE.exists():
        PAGE.write_text(with_tables(PAGE.read_text(), result))


if __name__ == "__main__":
    main(sys.argv[1:])
