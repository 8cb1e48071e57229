"""Search for update rules written as programs: language, mutation, evolution, funnel, simplification (arXiv:2302.06675)."""

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
