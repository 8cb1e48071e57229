"""The names a recipe may use, declared where each method is written.

A method joins with one decorator beside its definition::

    @method("lion", search={"lr": ("log", 1e-5, 1e-2), "weight_decay": ("log", 1e-3, 10.0)})
    class Lion(ChainedOptimizer): ...

Its seam (the place in the training stream that it changes) is the sub-package it lives in, and how the race applies it
follows from the seam alone:

========== ===============================================================================================
seam       what the race calls
========== ===============================================================================================
optim      ``target(model, **settings) -> Optimizer`` or, for a transform, a chain put before the optimizer's own
init       ``target(model, generator=..., **settings)``, in place, before training
nn         ``target(model, **settings) -> model``, a converter, before ``init``
data       ``target(dataset, make_model=..., generator=..., **settings) -> Sampler``
========== ===============================================================================================

An optimizer that needs more than gradients (curvature, the loss at other weights) says so by the class attribute
``needs_closure = True``; the race then calls ``step(closure)`` with a :class:`thalweg.autodiff.Closure`, and the step returns
the closure's loss.

This module uses the standard library only, so that importing a seam stays cheap.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Space = tuple[Any, ...]
"""One searched setting: ``("log"|"linear"|"int", low, high)`` or ``("choice", a, b, ...)``."""

_T = TypeVar("_T", bound=Callable[..., Any])
_METHODS: dict[str, Method] = {}


@dataclass(frozen=True)
class Method:
    """One entry of the registry: a name, the object behind it, the settings a race tunes, and when it is worth a try."""

    name: str
    seam: str
    target: Callable[..., Any]
    search: Mapping[str, Space] = field(default_factory=dict)
    use: str = ""

    def settings(self) -> dict[str, Any]:
        """Settings the target takes by keyword, with their declared defaults (``inspect.Parameter.empty`` if none)."""
        parameters = inspect.signature(self.target).parameters.values()
        return {p.name: p.default for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def method(
    name: str, *, search: Mapping[str, Space] | None = None, seam: str | None = None, use: str = ""
) -> Callable[[_T], _T]:
    """Register the decorated class or function under ``name``; it is returned unchanged.

    Args:
        name: what users write in a recipe, lower case.
        search: settings that a race tunes; see :data:`Space`.
        seam: where the method acts; ``None`` takes the ``thalweg`` sub-package that defines it. A method defined
            elsewhere, say in a user's task file, has to name it.
        use: when to use it, one honest sentence for the tables of the guides; every update rule of the package has one.

    Raises:
        ValueError: the name is taken by another object, a space is malformed, or the seam can't be told.
    """
    spaces = dict(search or {})
    for key, space in spaces.items():
        _check_space(name, key, space)

    def register(target: _T) -> _T:
        known = _METHODS.get(name)
        if known is not None and known.target.__qualname__ != target.__qualname__:
            raise ValueError(
                f"method name {name!r} is already taken by {known.target.__module__}.{known.target.__qualname__}"
            )
        package, _, rest = target.__module__.partition(".")
        if seam is None and package != "thalweg":
            raise ValueError(
                f"method {name!r} is defined outside thalweg: say where it acts, e.g. method({name!r}, seam='optim')"
            )
        _METHODS[name] = Method(name, seam or rest.split(".")[0], target, spaces, use)
        return target

    return register


def methods(seam: str | None = None) -> dict[str, Method]:
    """Registered methods by name, of one seam or of all; only of the seams imported so far."""
    return {name: m for name, m in sorted(_METHODS.items()) if seam in (None, m.seam)}


def lookup(name: str, seam: str | None = None) -> Method:
    """The method called ``name``; a :class:`ValueError` that suggests the nearest name if there is none."""
    choices = methods(seam)
    if name not in choices:
        raise ValueError(unknown("method" if seam is None else f"{seam} method", name, choices))
    return choices[name]


def unknown(kind: str, name: str, choices: Iterable[str]) -> str:
    """One line for an unknown name: the nearest choice if there is one, and all choices."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}{hint} (choose from {', '.join(choices)})"


def _check_space(name: str, key: str, space: Space) -> None:
    kind = space[0] if space else None
    good = (kind in ("log", "linear", "int") and len(space) == 3 and space[1] < space[2]) or (
        kind == "choice" and len(space) > 1
    )
    if not good or (kind == "log" and space[1] <= 0):
        raise ValueError(f"{name}: malformed search space for {key!r}: {space!r}")
