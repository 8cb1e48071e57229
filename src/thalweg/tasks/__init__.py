"""Problems to train on: built in, offline and real, or a user's own Python file.

``load("mnist5k")`` or ``load("my_task.py")`` gives a :class:`Task`. Importing this package and listing the names is
cheap: torch and the data are loaded with the first task.

The experiments' own problems are imported from their modules, such as :mod:`thalweg.tasks.regression_prompts` (``linear_prompts``),
:mod:`thalweg.tasks.gaussian_clusters`, :mod:`thalweg.tasks.xor_clusters`, :mod:`thalweg.tasks.group_addition`,
:mod:`thalweg.tasks.dynamic_signal` and :mod:`thalweg.tasks.teacher_student`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from thalweg.registry import unknown

if TYPE_CHECKING:
    from thalweg.tasks.check import check_task
    from thalweg.tasks.task import Task, TaskError

__all__ = ["Task", "TaskError", "check_task", "describe", "load", "names"]

_BUILT_IN = {
    "deep-linear": ("deep_linear", "8-8-7 linear network on a binary tree of items; its loss curve is known in closed form"),
    "digits": ("digits", "1,797 real 8 x 8 digits, a perceptron with two hidden layers, accuracy; a second a run"),
    "docs-lm": ("docs_lm", "next byte of CPython's documentation and library source, a 2-layer decoder, nats per byte"),
    "mnist5k": ("mnist5k", "5,000 real MNIST digits, a small CNN with BatchNorm, validation loss; 5 seconds a run"),
}  # fmt: skip
_LAZY = {"Task": "task", "TaskError": "task", "check_task": "check"}


def names() -> list[str]:
    """Names of the built-in tasks."""
    return sorted(_BUILT_IN)


def describe(name: str) -> str:
    """One line about the built-in task ``name``; nothing is loaded.

    Raises:
        ValueError: there is no such task; the message suggests one.
    """
    if name not in _BUILT_IN:
        raise ValueError(unknown("task", name, _BUILT_IN))
    return _BUILT_IN[name][1]


def load(name_or_path: str | os.PathLike[str]) -> Task:
    """The task of this name, or the one that a Python file's ``task()`` returns.

    Args:
        name_or_path: a name of :func:`names`, or the path of a file that defines ``task()``. Whatever ends in ``.py`` or
            contains a path separator is a path.

    Raises:
        TaskError: there is no such task, or the file gives none; one line that says what is wrong and where.

    Example:
        >>> load("digits").batch_size
        64
    """
    text = os.fspath(name_or_path)
    if text in _BUILT_IN:
        return importlib.import_module(f"thalweg.tasks.{_BUILT_IN[text][0]}").task()
    if text.endswith(".py") or os.path.basename(text) != text or os.path.isfile(text):
        from thalweg.tasks.user_file import load_file

        return load_file(text)
    from thalweg.tasks.task import TaskError

    raise TaskError(f"{unknown('task', text, _BUILT_IN)}, or give the path of a Python file that defines task()")


def __getattr__(name: str) -> Any:
    """Import the names that need torch when they are first used."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"thalweg.tasks.{_LAZY[name]}"), name)
