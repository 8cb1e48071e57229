"""The reference of the API, from signatures and docstrings.

Written here in a few hundred lines, rather than by a documentation tool, since its pages belong to the site: the same look,
links to papers and back, and nothing loaded from elsewhere.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from markupsafe import Markup

from thalweg.report.site.calls import Call, call, resolve
from thalweg.report.site.docstring import Link, Section, sections
from thalweg.report.site.entries import Entry

SEAMS = tuple(f"thalweg.{name}" for name in ("init", "data", "nn", "adapt", "objective", "optim", "grow", "compress",
                                             "solve", "generate", "probe"))  # fmt: skip
THEORY = tuple(f"thalweg.linalg.{name}" for name in (
    "dct", "factor_risk", "in_context_descent", "in_context_step", "linear_descent", "linear_network", "marchenko_pastur",
    "mean_field_quadratic", "mode_flow", "polar", "regression_dynamics", "small_start_kernel", "subspace_basis", "woodbury",
))  # fmt: skip
"""Matrix tools and closed forms that are imported from their own module, as their names only speak in its company."""
PROBLEMS = tuple(f"thalweg.tasks.{name}" for name in (
    "decoder", "denoising", "dynamic_signal", "evidence", "gaussian_clusters", "group_addition", "opposing_toy", "photo_crops",
    "regression_prompts", "single_index", "teacher_student", "white_digits", "xor_clusters",
))  # fmt: skip
"""Problems of the experiments, likewise."""
AROUND = ("thalweg.linalg", *THEORY, "thalweg.autodiff", "thalweg.registry", "thalweg.tasks", *PROBLEMS, "thalweg.race",
          "thalweg.catalog", "thalweg.claims.engine", "thalweg.claims.engine.contract", "thalweg.testing")  # fmt: skip
"""Public modules beside the seams."""

FOLDER = "api"


@dataclass(frozen=True)
class Member:
    """A method or property of a class: its name, how it is called, and the first paragraph of its docstring."""

    name: str
    signature: str
    summary: Markup


@dataclass(frozen=True)
class Name:
    """One public thing and what its page says.

    Args:
        path: its dotted name, by which it is imported.
        call: signature and example.
        sections: its docstring.
        members: methods and properties that its class defines itself.
        papers: entries of the reading list that name it.
        file: where it is written, from the package's folder on; empty if that can't be told.
    """

    path: str
    call: Call
    sections: tuple[Section, ...]
    members: tuple[Member, ...] = ()
    papers: tuple[Entry, ...] = ()
    file: str = ""

    @property
    def summary(self) -> Markup:
        """The first paragraph of its docstring."""
        return _first(self.sections)

    @property
    def short(self) -> str:
        """Its own name."""
        return self.path.rpartition(".")[2]

    @property
    def module(self) -> str:
        """What it is imported from."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True)
class Module:
    """A public module, its docstring and its names, in the order of the alphabet."""

    path: str
    sections: tuple[Section, ...]
    names: tuple[Name, ...]

    @property
    def summary(self) -> Markup:
        """The first paragraph of its docstring."""
        return _first(self.sections)


class Reference:
    """All public modules with their names, and further names that papers list.

    Args:
        listed: the reading list; what its entries name gets a page, public or not.
        modules: the public modules; those that don't exist yet are left out.

    Example:
        >>> from thalweg.report.site.reference import Reference
        >>> reference = Reference([], modules=("thalweg.init",))
        >>> reference.address("thalweg.init.orthogonal_")
        'thalweg.init.orthogonal_.html'
    """

    def __init__(self, listed: Sequence[Entry], modules: Sequence[str] = (*SEAMS, *AROUND)) -> None:
        self._modules = {path: found for path in modules if (found := _module(path)) is not None}
        self._public = {path: public_names(module) for path, module in self._modules.items()}
        self._papers: dict[str, list[Entry]] = {}
        for entry in listed:
            for path in entry.paper.implements:
                self._papers.setdefault(path, []).append(entry)
        paths = [f"{module}.{name}" for module, names in self._public.items() for name in names]
        self._paths = dict.fromkeys([*paths, *(path for path in self._papers if path not in self._modules)])

    def address(self, target: str, module: str = "") -> str:
        """The page of what a docstring names, from another page of the reference; empty if it has none.

        Args:
            target: a dotted path, or a name as it is used in ``module``.
            module: of the docstring.
        """
        pages = {**self._paths, **dict.fromkeys(self._modules)}
        for path in (target, f"{module}.{target}"):
            if path in pages:
                return f"{path}.html"
        same = [path for path in self._paths if path.rpartition(".")[2] == target.rpartition(".")[2]]
        return f"{same[0]}.html" if len(same) == 1 else ""

    @cached_property
    def names(self) -> Mapping[str, Name]:
        """Everything that has a page of its own, by its path."""
        return {path: self._name(path) for path in self._paths}

    @cached_property
    def modules(self) -> list[Module]:
        """The public modules."""
        return [self._module_page(path, module) for path, module in self._modules.items()]

    def _name(self, path: str) -> Name:
        target = resolve(path)
        said = call(path)
        papers = tuple(self._papers.get(path, ()))
        if not said.summary:
            return Name(path, said, (), papers=papers)

        def link(name: str) -> str:
            return self.address(name, path.rpartition(".")[0])

        found = sections(inspect.getdoc(target) or "", link)
        return Name(path, said, tuple(found), _members(path, target, link), papers, _file(target))

    def _module_page(self, path: str, module: ModuleType) -> Module:
        found = sections(inspect.getdoc(module) or "", lambda name: self.address(name, path))
        names = [self.names[f"{path}.{name}"] for name in self._public[path]]
        return Module(path, tuple(found), tuple(names))


def public_names(module: ModuleType) -> list[str]:
    """What a module offers: its ``__all__``, else what it defines itself and doesn't hide; in the order of the alphabet."""
    offered = getattr(module, "__all__", None)
    if offered is None:
        offered = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
    return sorted(offered, key=lambda name: (name.lower(), name))


def write(page: Callable[..., None], listed: Sequence[Entry]) -> None:
    """Write all pages of the reference.

    Args:
        page: ``page(path, template, **context)`` writes one page of the site.
        listed: the reading list.
    """
    reference = Reference(listed)
    page(f"{FOLDER}/index.html", "api_index.html", modules=reference.modules, inner=THEORY + PROBLEMS)
    for module in reference.modules:
        page(f"{FOLDER}/{module.path}.html", "api_module.html", module=module)
    public = {module.path for module in reference.modules}
    for path, name in reference.names.items():
        page(f"{FOLDER}/{path}.html", "api_name.html", name=name, public=name.module in public)


def _module(path: str) -> ModuleType | None:
    """The module; None if there is none of this name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:
            raise
        return None


def _first(found: Sequence[Section]) -> Markup:
    """The first paragraph."""
    return next((block.rows[0][0] for section in found for block in section.blocks if block.kind == "text"), Markup(""))


def _members(path: str, target: Any, link: Link) -> tuple[Member, ...]:
    """Public methods and properties that a class defines itself and says something about."""
    if not inspect.isclass(target):
        return ()
    members = []
    for name, value in vars(target).items():
        documented = isinstance(value, property | staticmethod | classmethod) or inspect.isfunction(value)
        if documented and not name.startswith("_") and getattr(value, "__doc__", None):
            signature = call(f"{path}.{name}").signature
            bare = re.sub(r"\((\s*)self(?:,\s*|(?=\)))", r"(\1", signature, count=1)
            members.append(Member(name, bare or name, _first(sections(inspect.getdoc(value) or "", link))))
    return tuple(members)


def _file(target: Any) -> str:
    """The file that holds it, as ``thalweg/optim/lion.py``."""
    candidates: tuple[Any, ...] = (target, getattr(target, "update", None), type(target))
    for made_of in candidates:
        try:
            path = Path(inspect.getsourcefile(inspect.unwrap(made_of)) or "").as_posix()
        except TypeError:
            continue
        if "/thalweg/" in path:
            return f"thalweg/{path.rpartition('/thalweg/')[2]}"
    return ""
