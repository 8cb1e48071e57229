"""Recipes: which methods a race combines, written as ``"muon"``, ``"adamw + orthogonal"`` or ``"lion(betas=(0.95,
0.98))"``.

A recipe is a sum of registered methods: exactly one optimizer, any number of gradient transforms and model converters,
at most one initialization and at most one data selection. Arguments are Python literals by keyword; they are fixed,
and the other settings that a method declares as searchable are tuned. A range in the place of a value,
``"adamw(lr=log(1e-4, 0.1))"``, is searched instead of the declared one. A label and a colon before a recipe,
``"slow: adamw(lr=1e-5)"``, is what tables and plots call it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from thalweg import registry
from thalweg.registry import Method, Space

SEAMS = ("optim", "init", "nn", "data")
"""The seams that a race can apply, in the order in which a recipe's text names them."""

_SUPPLIED = {"model", "params", "dataset", "make_model", "generator", "before"}
"""Arguments that the race passes itself; a recipe can't set them."""

_RANGES = {"log": "numbers above 0", "linear": "numbers", "int": "whole numbers"}
"""Kinds of ranges, and what their two bounds are."""

_LABEL = re.compile(r"\s*([^\W\d_][\w .-]{0,39}?)\s*:(.*)", re.DOTALL)

_SINGLE = {"optim": "optimizer", "init": "initialization", "data": "data selection"}


@dataclass(frozen=True)
class Part:
    """One method of a recipe with the settings that its text fixes, and those whose range its text gives."""

    name: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, Space] = field(default_factory=dict)

    def __str__(self) -> str:
        values = {key: repr(value) for key, value in self.fixed.items()}
        ranges = {key: f"{kind}({', '.join(map(repr, bounds))})" for key, (kind, *bounds) in self.ranges.items()}
        arguments = ", ".join(f"{key}={value}" for key, value in sorted({**values, **ranges}.items()))
        return f"{self.name}({arguments})" if arguments else self.name

    @property
    def method(self) -> Method:
        """The registered method behind the name."""
        return registry.lookup(self.name)

    @property
    def search(self) -> dict[str, Space]:
        """What is tuned: the method's own settings that the text doesn't fix, over the text's ranges where it gives any."""
        declared = {key: space for key, space in self.method.search.items() if key not in self.fixed}
        return {**declared, **self.ranges}

    @property
    def kind(self) -> str:
        """The seam, with gradient transforms told from optimizers: ``"transform"``."""
        seam = self.method.seam
        return "transform" if seam == "optim" and not _is_optimizer(self.method) else seam


@dataclass(frozen=True)
class Recipe:
    """What a race trains with; made by :func:`parse`. Two recipes are equal if their normalized texts are."""

    parts: tuple[Part, ...]
    label: str = ""

    def __str__(self) -> str:
        text = " + ".join(map(str, self.parts))
        return f"{self.label}: {text}" if self.label else text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """The label; without one the normalized text: the optimizer first, arguments sorted."""
        return self.label or str(self)

    def of_kind(self, kind: str) -> tuple[Part, ...]:
        """The parts that act at one place: ``"optim"``, ``"transform"``, ``"init"``, ``"nn"`` or ``"data"``."""
        return tuple(part for part in self.parts if part.kind == kind)

    def search_space(self) -> dict[str, Space]:
        """What is tuned: setting name to space. A name that two parts tune is written ``part.setting``."""
        return {key: part.search[setting] for key, (part, setting) in self._tuned().items()}

    def defaults(self) -> dict[str, Any]:
        """The published default of every tuned setting; the middle of its space where the method declares none."""
        values = {}
        for key, (part, setting) in self._tuned().items():
            default = part.method.settings().get(setting, inspect.Parameter.empty)
            values[key] = _middle(part.search[setting]) if default is inspect.Parameter.empty else default
        return values

    def settings_of(self, part: Part, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of one part: what the text fixes and what ``settings`` (tuned values) says."""
        tuned = {
            name: settings[key] for key, (owner, name) in self._tuned().items() if owner is part and key in settings
        }
        return {**part.fixed, **tuned}

    def _tuned(self) -> dict[str, tuple[Part, str]]:
        pairs = [(part, name) for part in self.parts for name in part.search]
        names = [name for _, name in pairs]
        return {name if names.count(name) == 1 else f"{part.name}.{name}": (part, name) for part, name in pairs}


def parse(text: str) -> Recipe:
    """The recipe that ``text`` describes.

    Args:
        text: methods joined by ``+``, each a name or ``name(setting=literal, ...)``; in the place of a literal
            ``log(low, high)``, ``linear(low, high)``, ``int(low, high)`` or ``choice(value, ...)`` for what to tune over;
            before all of it ``label:`` if tables and plots should call it something shorter.

    Raises:
        ValueError: malformed text, an unknown method or setting, or methods that exclude each other; one line that
            says which choices there are.

    Example:
        >>> from thalweg.race import parse
        >>> str(parse("adamw( weight_decay = 0.0,lr=1e-3 )"))
        'adamw(lr=0.001, weight_decay=0.0)'
        >>> parse("mine: sgd(lr=log(1e-3, 3.0), momentum=choice(0.9, 0.99), weight_decay=0.0)").search_space()
        {'lr': ('log', 0.001, 3.0), 'momentum': ('choice', 0.9, 0.99)}
    """
    if not isinstance(text, str):
        raise ValueError(f"a recipe is a string such as 'adamw', not {text!r}")
    load_methods()
    label = _LABEL.fullmatch(text)
    parts = [_parse_part(node, text) for node in _terms(_expression(label[2] if label else text))]
    order = {"optim": 0, "transform": 1, "init": 2, "nn": 3, "data": 4}
    recipe = Recipe(tuple(sorted(parts, key=lambda part: order[part.kind])), label[1] if label else "")
    _check_conflicts(recipe, text)
    return recipe


def parse_all(texts: Iterable[str]) -> list[Recipe]:
    """Every recipe of ``texts``; a :class:`ValueError` if there is none or one comes twice."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ValueError(f"recipes must be a list of strings such as ['adamw', 'lion'], not {texts!r}")
    recipes: list[Recipe] = []
    for text in texts:
        recipe = parse(text)
        if recipe.name in [other.name for other in recipes]:
            raise ValueError(f"recipe {recipe.name!r} is given twice; every recipe may race once")
        recipes.append(recipe)
    if not recipes:
        raise ValueError("no recipe given; name at least one, for example 'adamw'")
    return recipes


def load_methods() -> None:
    """Import every seam that a race can apply, so that its methods are registered."""
    for seam in SEAMS:
        importlib.import_module(f"thalweg.{seam}")


def raceable() -> dict[str, Method]:
    """The registered methods that a recipe may name."""
    return {name: method for name, method in registry.methods().items() if method.seam in SEAMS}


def allowed_settings(method: Method) -> list[str]:
    """Settings of ``method`` that a recipe may fix."""
    return sorted(set(method.settings()) - _SUPPLIED)


def is_optimizer(method: Method) -> bool:
    """Whether a method of the seam ``optim`` is a whole optimizer, not a transform of the gradient before one."""
    return method.seam == "optim" and _is_optimizer(method)


def _is_optimizer(method: Method) -> bool:
    target = method.target
    if inspect.isclass(target):
        return issubclass(target, Optimizer)
    returns = inspect.signature(target).return_annotation
    if isinstance(returns, str):
        returns = getattr(inspect.getmodule(target), returns.split(".")[-1], None)
    return inspect.isclass(returns) and issubclass(returns, Optimizer)


def _expression(text: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"can't read recipe {text!r}; write it like 'lion(betas=(0.95, 0.98)) + orthogonal'") from None


def _terms(node: ast.expr) -> list[ast.expr]:
    terms = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        terms.append(node.right)
        node = node.left
    return [node, *reversed(terms)]


def _parse_part(node: ast.expr, text: str) -> Part:
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    if not isinstance(call.func, ast.Name) or call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(
            f"can't read {ast.unparse(node)!r} in recipe {text!r}; write a method's name or name(setting=value, ...)"
        )
    name = call.func.id
    choices = raceable()
    if name not in choices:
        raise ValueError(registry.unknown("method", name, choices))
    ranges = {str(keyword.arg): _range(keyword, name) for keyword in call.keywords if _is_range(keyword.value)}
    fixed = {str(keyword.arg): _literal(keyword, name) for keyword in call.keywords if not _is_range(keyword.value)}
    if len({*fixed, *ranges}) < len(call.keywords):
        raise ValueError(f"{ast.unparse(node)!r} gives a setting twice; keep it once")
    allowed = allowed_settings(choices[name])
    for key in [*fixed, *ranges]:
        if key not in allowed:
            raise ValueError(registry.unknown(f"setting of {name}", key, allowed))
    return Part(name, fixed, ranges)


def _is_range(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in [*_RANGES, "choice"]


def _range(keyword: ast.keyword, name: str) -> Space:
    """What ``keyword``'s value, written like ``log(0.001, 1.0)``, says to search over."""
    call = keyword.value
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Name)
    kind = call.func.id
    values = [_literal(ast.keyword(keyword.arg, value), name) for value in call.args]
    text = f"{name}: {keyword.arg}={ast.unparse(call)}"
    if kind == "choice":
        if call.keywords or len(values) < 2 or not all(isinstance(value, bool | int | float | str) for value in values):
            raise ValueError(f"{text} is no choice; give two or more numbers, strings, True or False")
        return ("choice", *values)
    numbers = int if kind == "int" else int | float
    plain = len(values) == 2 and all(isinstance(v, numbers) and not isinstance(v, bool) for v in values)
    if call.keywords or not plain or not values[0] < values[1] or (kind == "log" and values[0] <= 0):
        raise ValueError(f"{text} is no range; give {_RANGES[kind]}, the lower and the upper bound")
    return (kind, *values)


def _literal(keyword: ast.keyword, name: str) -> Any:
    try:
        value = ast.literal_eval(keyword.value)
    except (ValueError, TypeError, RecursionError, MemoryError):
        value = math.nan  # not writable either: the same message serves both
    if not _writable(value):
        text = f"{keyword.arg}={ast.unparse(keyword.value)}"
        raise ValueError(
            f"{name}: {text} is not a plain value; use finite numbers, strings, True, False, None, tuples or lists"
        )
    return value


def _writable(value: Any) -> bool:
    """Whether ``repr`` of a literal reads back as the same value and JSON can hold it."""
    if isinstance(value, tuple | list):
        return all(map(_writable, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)


def _check_conflicts(recipe: Recipe, text: str) -> None:
    for kind, label in _SINGLE.items():
        names = [part.name for part in recipe.of_kind(kind)]
        if len(names) > 1:
            article = "an" if label[0] in "aio" else "a"
            raise ValueError(
                f"recipe {text!r} has more than one {label} ({', '.join(names)}); keep {article} {label} only once"
            )
    if not recipe.of_kind("optim"):
        optimizers = [name for name, method in raceable().items() if is_optimizer(method)]
        raise ValueError(
            f"recipe {text!r} has no optimizer; add one, e.g. 'adamw + ...' (choose from {', '.join(optimizers)})"
        )
    names = [part.name for part in recipe.parts]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"recipe {text!r} names {name!r} twice; keep it once")


def _middle(space: Space) -> Any:
    kind, *bounds = space
    if kind == "choice":
        return bounds[0]
    low, high = bounds
    if kind == "log":
        return math.sqrt(low * high)
    return (low + high) // 2 if kind == "int" else (low + high) / 2
