"""Mutation: what may change, by how much, and that accepted programs run."""

from __future__ import annotations

import math
import statistics
from random import Random

import pytest
import torch

from thalweg.optim import Program
from thalweg.optim.program_search import ADAMW, RAW_LION, mutate, propose
from thalweg.optim.program_search.mutation import LARGEST, changed_constant
from thalweg.optim.program_search.running import run_steps, steps_of


def test_accepted_mutants_run_and_do_something_else() -> None:
    rng, shapes = Random(0), ((2, 3), (4,))
    w, g = ([torch.randn(s, generator=torch.Generator().manual_seed(k)) for s in shapes] for k in range(2))
    zeros = [torch.zeros(s) for s in shapes]
    program, text = ADAMW, str(ADAMW)
    for number in range(500):
        parent = program if number % 20 else ADAMW
        program = mutate(parent, rng, max_len=14)
        assert len(program) <= 14 and program.check() and program.functional_hash() != parent.functional_hash()
        for found in run_steps(steps_of(program), w, g, zeros, zeros, 0.1):
            assert [x.shape for x in found] == [torch.Size(s) for s in shapes]
    assert str(ADAMW) == text


def test_constants() -> None:
    rng = Random(1)
    new = [changed_constant(1e6, rng) for _ in range(4000)]  # far from what N(0, 1) gives
    fresh = [x for x in new if abs(x) < 100]
    ratios = [math.log2(x / 1e6) for x in new if x > 100]
    assert len(fresh) + len(ratios) == 4000 and abs(len(fresh) - 2000) < 4 * 1000**0.5
    for values in (fresh, ratios):
        assert abs(statistics.fmean(values)) < 4 / 2000**0.5 and abs(statistics.stdev(values) - 1) < 4 / 4000**0.5
    assert abs(sum(x < 0 for x in new) - 1000) < 4 * 750**0.5
    assert max(changed_constant(LARGEST, rng) for _ in range(50)) == LARGEST


@pytest.mark.parametrize(("weights", "change"), [((1, 0, 0), 1), ((0, 1, 0), -1), ((0, 0, 1), 0)])
def test_one_kind_of_change(weights: tuple[float, float, float], change: int) -> None:
    rng = Random(2)
    for _ in range(50):
        mutant = propose(ADAMW, rng, weights=weights)
        assert len(mutant) == len(ADAMW) + change
        if change == 0:
            changed = [(a, b) for a, b in zip(ADAMW.lines, mutant.lines, strict=True) if a != b]
            assert len(changed) == 1 and changed[0][0].target == changed[0][1].target
            assert sum(x != y for x, y in zip(changed[0][0].arguments, changed[0][1].arguments, strict=True)) == 1


def test_limits() -> None:
    rng, one = Random(3), Program.parse("update = g * lr")
    assert all(len(propose(RAW_LION, rng, max_len=12)) <= 12 for _ in range(50))
    assert all(len(propose(one, rng)) >= 1 for _ in range(50))
    with pytest.raises(
        ValueError, match=r"^weights must be at least 0 with one above, and max_len at least 1: got \(0"
    ):
        propose(one, rng, weights=(0, 0, 0))
    with pytest.raises(ValueError, match=r"^weights must be at least 0"):
        mutate(one, rng, weights=(1, -1, 1))
    with pytest.raises(ValueError, match=r"^no change of the weights \(0, 1, 0\) is possible in a program of 1 lines$"):
        propose(one, rng, weights=(0, 1, 0))
    with pytest.raises(ValueError, match=r"max_len at least 1: got .* and 0$"):
        propose(one, rng, max_len=0)
    with pytest.raises(RuntimeError, match=r"^1000 mutations gave no valid program"):
        mutate(Program.parse("x = pi()\nupdate = sqrt(g)"), rng, weights=(0, 1, 0))
