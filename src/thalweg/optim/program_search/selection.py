"""What comes after the search: a funnel of larger tasks, and simplification by score (arXiv:2302.06675)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from thalweg.optim.program_search.program import Program

Score = Callable[[Program], float]


def select_by_funnel(
    programs: Iterable[Program], stages: Sequence[Score], baseline: Program, keep: int | None = None
) -> list[tuple[Program, float]]:
    """Keep the programs that beat a baseline on tasks of growing size, stage by stage.

    A program that fits the small task of a search alone is weeded out by a task that it never saw.

    Args:
        programs: candidates; those that do the same count once.
        stages: each gives a program's score, higher is better; the cheapest first.
        baseline: is scored at every stage; whoever isn't above it is out.
        keep: most programs to go on after each stage; None: all that are above.

    Returns:
        Survivors and their scores at the last stage, the best first; possibly none.

    Raises:
        ValueError: no stage.

    Example:
        >>> from thalweg.optim.program_search import ADAMW, LION, select_by_funnel
        >>> [len(program) for program, score in select_by_funnel([LION, ADAMW], [lambda p: -len(p)], baseline=ADAMW)]
        [7]
    """
    if not stages:
        raise ValueError("a funnel needs at least one stage")
    distinct: dict[str, Program] = {}
    for program in programs:
        distinct.setdefault(program.functional_hash(), program)
    alive = list(distinct.values())
    scored: list[tuple[Program, float]] = []
    for stage in stages:
        bar = stage(baseline)
        scored = [(program, score) for program in alive if (score := stage(program)) > bar]
        scored = sorted(scored, key=lambda pair: pair[1], reverse=True)[:keep]
        alive = [program for program, _ in scored]
    return scored


def simplify_by_score(program: Program, score: Score, tol: float = 0.005) -> Program:
    """Take out all lines, and round all constants, that the score doesn't need.

    Greedy: each line is left out, or its variable's other readers get one of its arguments in its place, and each constant is
    rounded to one or two digits; a change stays if the score falls by at most ``tol`` of the first one's size. This goes on until
    nothing more can go.

    Args:
        program: what is simplified; it stays as it is.
        score: higher is better; called for every change.
        tol: tolerated loss, relative to the size of the program's own score.

    Returns:
        A program without dead lines.

    Raises:
        ValueError: ``tol`` below 0, or a program that can't run.

    Example:
        >>> from thalweg.optim import Program
        >>> from thalweg.optim.program_search import simplify_by_score
        >>> program = Program.parse("c = g * 1.0004\\nd = cos(c)\\nupdate = c * lr")
        >>> print(simplify_by_score(program, lambda p: 1.0 if "g * 1.0" in str(p) else 0.0))
        c = g * 1.0
        update = c * lr
    """
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, not {tol}")
    if program.problem is not None:
        raise ValueError(program.problem)
    current = program.simplified()
    first = score(current)
    bar = first - tol * abs(first)
    while True:
        better = next((c for c in _simpler(current) if c.check() and score(c) >= bar), None)
        if better is None:
            return current
        current = better.simplified()


def _simpler(program: Program) -> Iterable[Program]:
    """Programs with a line less, then such with a rounder constant."""
    lines = program.lines
    for place, line in enumerate(lines):
        yield Program(lines[:place] + lines[place + 1 :])
        for name in sorted(line.reads - {line.target}):
            rest = list(lines[place + 1 :])
            for later, follower in enumerate(rest):
                given = tuple(name if a == line.target else a for a in follower.arguments)
                rest[later] = replace(follower, arguments=given)
                if follower.target in (line.target, name):
                    break
            yield Program((*lines[:place], *rest))
    for place, line in enumerate(lines):
        for slot, argument in enumerate(line.arguments):
            for digits in (1, 2) if isinstance(argument, float) else ():
                rounded = float(f"{argument:.{digits - 1}e}")
                if rounded == argument:
                    break
                changed = replace(line, arguments=(*line.arguments[:slot], rounded, *line.arguments[slot + 1 :]))
                yield Program((*lines[:place], changed, *lines[place + 1 :]))
