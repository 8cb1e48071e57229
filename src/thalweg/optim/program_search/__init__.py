"""Search for update rules written as programs: language, mutation, evolution, funnel, simplification (arXiv:2302.06675).

From a search to an optimizer:

    >>> import torch
    >>> from thalweg.optim.program_search import *
    >>> start = [torch.tensor([3.0, -2.0])]
    >>> def loss(params, step):
    ...     return (torch.tensor([1.0, 10.0]) * params[0].square()).sum()
    >>> def score(params):
    ...     return -loss(params, 0).item()
    >>> small, larger = (ShortTraining(start, loss, score, steps, bound=1e3) for steps in (10, 40))
    >>> found = search_optimizers([small], evaluations=40, population=8, tournament=4)
    >>> found.score > small(ADAMW)
    True
    >>> survivors = select_by_funnel(found.best_programs(5), [larger], baseline=ADAMW)
    >>> rule = simplify_by_score(survivors[0][0], larger)
    >>> len(rule) <= len(survivors[0][0].simplified())
    True
    >>> optimizer = make_optimizer(rule, torch.nn.Linear(3, 2))
"""

from thalweg.optim.program_search.evolution import SearchResult, SearchStats, search_optimizers
from thalweg.optim.program_search.functions import FUNCTIONS, Function
from thalweg.optim.program_search.known import ADAMW, LION, RAW_LION
from thalweg.optim.program_search.mutation import mutate, propose
from thalweg.optim.program_search.optimizer import ProgramOptimizer, make_optimizer, program_direction
from thalweg.optim.program_search.program import Line, Program
from thalweg.optim.program_search.selection import select_by_funnel, simplify_by_score
from thalweg.optim.program_search.training import ShortTraining

__all__ = [
    "ADAMW",
    "FUNCTIONS",
    "LION",
    "RAW_LION",
    "Function",
    "Line",
    "Program",
    "ProgramOptimizer",
    "SearchResult",
    "SearchStats",
    "ShortTraining",
    "make_optimizer",
    "mutate",
    "program_direction",
    "propose",
    "search_optimizers",
    "select_by_funnel",
    "simplify_by_score",
]
