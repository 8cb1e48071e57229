"""Mutation: a line more, a line less, or another argument (arXiv:2302.06675)."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

from thalweg.optim.program_search.functions import FUNCTIONS
from thalweg.optim.program_search.program import INPUTS, Argument, Line, Program

LARGEST = 1e10
"""Bound of constants."""

TRIES = 1000


def propose(
    program: Program, rng: Random, max_len: int = 20, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Program:
    """A changed copy of a program, which needn't be valid nor do anything else.

    One of three changes: insert a line (a random function of random variables, or new constants from N(0, 1), into a new or an
    existing variable); delete a line; or modify an argument (a variable to another one; a constant, with equal chances, to a fresh
    one from N(0, 1) or by a factor 2^z with z from N(0, 1)).

    Args:
        program: what is changed; it stays as it is.
        rng: of all choices.
        max_len: most lines; nothing is inserted at that length.
        weights: of insertion, deletion and modification.

    Raises:
        ValueError: negative weights or none above 0; ``max_len`` below 1; or the allowed changes can't change the program.
    """
    if min(weights) < 0 or not sum(weights) > 0 or max_len < 1:
        raise ValueError(
            f"weights must be at least 0 with one above, and max_len at least 1: got {weights} and {max_len}"
        )
    arguments = sum(len(line.arguments) for line in program.lines)
    possible = (len(program) < max_len, len(program) > 1, arguments > 0)
    allowed = [weight if able else 0.0 for weight, able in zip(weights, possible, strict=True)]
    if not sum(allowed):
        raise ValueError(f"no change of the weights {weights} is possible in a program of {len(program)} lines")
    lines = list(program.lines)
    (change,) = rng.choices((_insert, _delete, _modify), allowed)
    change(lines, rng)
    return Program(tuple(lines))


def mutate(
    program: Program, rng: Random, max_len: int = 20, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Program:
    """A valid program that does something else: :func:`propose` until the check passes and the hash differs.

    Raises:
        RuntimeError: 1000 proposals gave none.

    Example:
        >>> from random import Random
        >>> from thalweg.optim.program_search import ADAMW, mutate
        >>> mutant = mutate(ADAMW, Random(0))
        >>> mutant.check(), mutant.functional_hash() == ADAMW.functional_hash()
        (True, False)
    """
    own = program.functional_hash()
    for _ in range(TRIES):
        mutant = propose(program, rng, max_len, weights)
        if mutant.check() and mutant.functional_hash() != own:
            return mutant
    raise RuntimeError(f"{TRIES} mutations gave no valid program that does anything else")


def _in_scope(lines: list[Line], place: int) -> list[str]:
    """Variables known before a line, each once."""
    return list(dict.fromkeys([*INPUTS, *(line.target for line in lines[:place])]))


def _insert(lines: list[Line], rng: Random) -> None:
    place = rng.randrange(len(lines) + 1)
    name = rng.choice(list(FUNCTIONS))
    scope = _in_scope(lines, place)
    arguments: list[Argument] = []
    for _ in FUNCTIONS[name].slots:
        choice = rng.randrange(len(scope) + 1)
        arguments.append(scope[choice] if choice < len(scope) else rng.gauss(0.0, 1.0))
    taken = {*INPUTS, *(line.target for line in lines)}
    fresh = next(f"x{i}" for i in range(len(taken) + 1) if f"x{i}" not in taken)
    target = fresh if rng.random() < 0.5 else rng.choice(sorted(taken))
    lines.insert(place, Line(target, name, tuple(arguments)))


def _delete(lines: list[Line], rng: Random) -> None:
    del lines[rng.randrange(len(lines))]


def _modify(lines: list[Line], rng: Random) -> None:
    place = rng.choice([i for i, line in enumerate(lines) if line.arguments])
    line = lines[place]
    slot = rng.randrange(len(line.arguments))
    old = line.arguments[slot]
    others = [name for name in _in_scope(lines, place) if name != old]
    new: Argument = rng.choice(others) if isinstance(old, str) else changed_constant(old, rng)
    lines[place] = replace(line, arguments=(*line.arguments[:slot], new, *line.arguments[slot + 1 :]))


def changed_constant(old: float, rng: Random) -> float:
    """A fresh one from N(0, 1) or, with equal chance, the old one times 2^z, z from N(0, 1); within 1e10."""
    new = rng.gauss(0.0, 1.0) if rng.random() < 0.5 else old * math.exp2(rng.gauss(0.0, 1.0))
    return max(-LARGEST, min(LARGEST, new))
