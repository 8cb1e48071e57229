"""A hash of what a program computes, so that no program is trained twice under other names (arXiv:2302.06675)."""

from __future__ import annotations

from hashlib import blake2b

from thalweg.optim.program_search.functions import FUNCTIONS
from thalweg.optim.program_search.program import INPUTS, OUTPUTS, Program


def functional_hash(program: Program) -> str:
    """Runs the program on hashes in the place of numbers: an input's is its name's, a result's that of function and arguments.

    Lines that change no step are left out beforehand. Raises a ValueError for programs that can't run.
    """
    if program.problem is not None:
        raise ValueError(program.problem)
    known = {name: _hash("input", name) for name in INPUTS}
    for line in program.simplified().lines:
        given = [known[a] if isinstance(a, str) else _hash("constant", repr(a + 0.0)) for a in line.arguments]
        if FUNCTIONS[line.function].commutes:
            given.sort()
        known[line.target] = _hash(line.function, *given)
    return _hash(*(known[name] for name in OUTPUTS))


def _hash(*parts: str) -> str:
    return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
