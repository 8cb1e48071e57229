"""Regularized evolution of programs, with a cache that knows equal ones (arXiv:2302.06675, arXiv:1802.01548)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from thalweg.optim.program_search.known import ADAMW
from thalweg.optim.program_search.mutation import TRIES, propose
from thalweg.optim.program_search.program import Program

Score = Callable[[Program], float]


@dataclass
class SearchStats:
    """What became of all proposals. The other four add up to ``generated`` and one, the start, which is trained as well.

    Args:
        generated: mutated programs, before any check.
        invalid: unknown variables, wrong types.
        unchanged: valid, but the same function as their parent.
        cache_hits: another program with the same function was trained before.
        trained: really scored.
    """

    generated: int = 0
    invalid: int = 0
    unchanged: int = 0
    cache_hits: int = 0
    trained: int = 0

    @property
    def share_not_trained(self) -> float:
        """The share of proposals that cost next to nothing."""
        return 1 - self.trained / max(self.generated, 1)


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        best: the program with the highest score.
        score: its score.
        history: (programs trained so far, score, program), one entry for each time that the best changed, the first for the start.
        population: the last population, oldest first, with scores.
        stats: counts of proposals.
    """

    best: Program
    score: float
    history: tuple[tuple[int, float, Program], ...]
    population: tuple[tuple[Program, float], ...]
    stats: SearchStats

    def best_programs(self, count: int) -> list[Program]:
        """The last ``count`` programs that were the best of their time, the best first."""
        return [program for _, _, program in reversed(self.history)][:count]


@dataclass
class _Search:
    """One search on its way."""

    tasks: Sequence[Score]
    rng: Random
    max_len: int
    weights: tuple[float, float, float]
    evaluations: int
    cache: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, float, Program]] = field(default_factory=list)
    stats: SearchStats = field(default_factory=SearchStats)

    @property
    def finished(self) -> bool:
        return self.stats.trained >= self.evaluations or self.stats.generated >= TRIES * self.evaluations

    def score(self, program: Program, key: str) -> float:
        """From the cache, or by training on all tasks; it stops at the first that ends in -inf."""
        if key in self.cache:
            self.stats.cache_hits += 1
            return self.cache[key]
        self.stats.trained += 1
        scores: list[float] = []
        for task in self.tasks:
            scores.append(task(program))
            if scores[-1] == -math.inf:
                break
        found = self.cache[key] = math.fsum(scores) / len(scores) if -math.inf not in scores else -math.inf
        if math.isnan(found):
            raise ValueError(f"a task gave NaN as the score of a program; it should give -inf:\n{program}")
        if not self.history or found > self.history[-1][1]:
            self.history.append((self.stats.trained, found, program))
        return found

    def child(self, parent: Program) -> tuple[Program, float]:
        """A mutant that is valid and does something else, with its score."""
        own = parent.functional_hash()
        while True:
            self.stats.generated += 1
            mutant = propose(parent, self.rng, self.max_len, self.weights)
            if not mutant.check():
                self.stats.invalid += 1
            elif (key := mutant.functional_hash()) == own:
                self.stats.unchanged += 1
            else:
                return mutant, self.score(mutant, key)
            if self.finished:
                return parent, self.cache[own]

    def run(self, start: Program, population: int, tournament: int, until: int) -> deque[tuple[Program, float]]:
        """Regularized evolution until so many programs are trained: the best of a tournament has a child, and the oldest dies."""
        members: deque[tuple[Program, float]] = deque()
        while len(members) < population and not self.finished:
            members.append(self.child(start))
        while self.stats.trained < until and not self.finished:
            entrants = self.rng.sample(range(len(members)), min(tournament, len(members)))
            parent = max((members[i] for i in entrants), key=lambda member: member[1])[0]
            members.append(self.child(parent))
            members.popleft()
        return members


def search_optimizers(
    tasks: Sequence[Score],
    init: Program = ADAMW,
    population: int = 50,
    tournament: int = 2,
    evaluations: int = 500,
    max_len: int = 20,
    restarts: int = 1,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    seed: int = 0,
) -> SearchResult:
    """Search for an update rule among programs, by regularized evolution from a known one.

    The first population are mutants of ``init``. Then, again and again: of ``tournament`` random members the one with the best score
    is mutated, its child scored and appended, and the oldest member dropped, however good. Proposals that can't run, do what their
    parent does, or do what a program did that was scored before, cost no training.

    Selection on noisy scores breeds lucky programs: score the best anew on fresh seeds (:func:`select_by_funnel`).

    Args:
        tasks: give a program's score, higher is better, -inf for one that broke down; such as ``ShortTraining``. The mean counts.
        init: where the search starts, by default AdamW.
        population: members P (the paper: 1000).
        tournament: entrants T (the paper: 2, a weak selection; small searches need more).
        evaluations: programs to train, ``init`` included.
        max_len: most lines.
        restarts: how many runs share the evaluations; each starts from the best program of those before.
        weights: of insertion, deletion and modification.
        seed: of all choices.

    Returns:
        The best program and how it was found; see :class:`SearchResult`.

    Raises:
        ValueError: no task, a tournament larger than the population, numbers below 1, weights that are all 0, or an ``init`` that
            can't run.

    The paper: arXiv:2302.06675.

    Example:
        >>> from thalweg.optim import search_optimizers
        >>> from thalweg.optim.program_search import ADAMW
        >>> shortest = search_optimizers([lambda program: -len(program.simplified())], evaluations=40, population=10, tournament=5)
        >>> len(shortest.best.simplified()) < len(ADAMW)
        True
    """
    if not tasks:
        raise ValueError("a search needs at least one task that scores programs")
    if min(population, tournament, evaluations, restarts) < 1:
        raise ValueError("population, tournament, evaluations and restarts must be at least 1")
    if tournament > population:
        raise ValueError(f"a tournament of {tournament} can't be drawn from a population of {population}")
    if init.problem is not None:
        raise ValueError(init.problem)
    search = _Search(tasks, Random(seed), max_len, weights, evaluations)
    search.score(init, init.functional_hash())
    members: deque[tuple[Program, float]] = deque()
    for run in range(restarts):
        until = evaluations * (run + 1) // restarts
        members = search.run(search.history[-1][2], population, tournament, until) or members
    _, score, best = search.history[-1]
    return SearchResult(best, score, tuple(search.history), tuple(members), search.stats)
