"""Run the checks on an optimizer class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from thalweg.registry import unknown
from thalweg.testing import convention_checks, optimizer_checks
from thalweg.testing.subject import MIXED, NotApplicable, Subject

CHECKS: dict[str, Callable[[Subject], None]] = {
    name.removeprefix("check_"): function
    for module in (optimizer_checks, convention_checks)
    for name, function in vars(module).items()
    if name.startswith("check_")
}
"""All checks by name, in the order in which they run."""


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Args:
        check: its name.
        status: "passed", "failed" or "not applicable".
        message: what was found, or why the check says nothing here; empty if it passed.
        expectation: what was checked, in a sentence.
    """

    check: str
    status: Literal["passed", "failed", "not applicable"]
    message: str
    expectation: str


def check_optimizer(
    optimizer: Callable[..., torch.optim.Optimizer],
    *,
    shapes: Sequence[tuple[int, ...]] = MIXED,
    checks: Iterable[str] | None = None,
    skip: Collection[str] = (),
    on_fail: Literal["raise", "warn", "return"] = "raise",
    **settings: Any,
) -> list[Outcome]:
    """Check that an optimizer keeps the conventions of ``torch.optim``, in the spirit of scikit-learn's ``check_estimator``.

    State dicts that resume bit by bit, closures, schedulers, groups added later, unusual tensors, gradients that stay as they
    are: see :data:`CHECKS`. It works for every ``torch.optim.Optimizer``; nothing in it knows Thalweg's own classes.

    Args:
        optimizer: a class, or a function ``(params, **settings) -> Optimizer``.
        shapes: shapes of parameters that it takes (default: a matrix, a vector, a scalar and a convolution).
        checks: names of the checks to run; ``None``: all.
        skip: names of checks to leave out.
        on_fail: "raise" at the first failure, "warn", or just "return" it.
        settings: keyword arguments for the optimizer; choose ``lr`` so that 30 steps lower a sum of squares.

    Returns:
        One :class:`Outcome` a check.

    Raises:
        AssertionError: a check failed, and ``on_fail`` is "raise".
        ValueError: an unknown name in ``checks`` or ``skip``.

    Example:
        >>> import torch
        >>> from thalweg.testing import check_optimizer
        >>> outcomes = check_optimizer(torch.optim.SGD, lr=0.05, momentum=0.9, on_fail="return")
        >>> [o.check for o in outcomes if o.status == "failed"]
        ['loading_copies', 'bad_settings']
    """
    if on_fail not in ("raise", "warn", "return"):
        raise ValueError(f'on_fail must be "raise", "warn" or "return", not {on_fail!r}')
    names = list(CHECKS) if checks is None else list(checks)
    for name in (*names, *skip):
        if name not in CHECKS:
            raise ValueError(unknown("check", name, CHECKS))
    subject = Subject(optimizer, settings, tuple(shapes))
    outcomes = []
    for name in names:
        if name in skip:
            continue
        outcome = _run(name, subject)
        outcomes.append(outcome)
        if outcome.status == "failed" and on_fail != "return":
            line = f"{getattr(optimizer, '__name__', optimizer)}: {name}: {outcome.message}"
            if on_fail == "raise":
                raise AssertionError(line)
            warnings.warn(line, stacklevel=2)
    return outcomes


def _run(name: str, subject: Subject) -> Outcome:
    expectation = (CHECKS[name].__doc__ or "").splitlines()[0]
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            CHECKS[name](subject)
    except NotApplicable as reason:
        return Outcome(name, "not applicable", str(reason), expectation)
    except AssertionError as failure:
        return Outcome(name, "failed", str(failure), expectation)
    except Exception as error:  # whatever a foreign optimizer raises is a finding, not the end of the checks
        return Outcome(name, "failed", f"{type(error).__name__}: {error}".splitlines()[0], expectation)
    return Outcome(name, "passed", "", expectation)
