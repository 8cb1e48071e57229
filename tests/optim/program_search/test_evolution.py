"""Search: who dies, what is counted, what is cached, and that it finds something on tasks with a known answer."""

from __future__ import annotations

import math

import pytest
import torch

from thalweg.optim.program_search import (
    ADAMW,
    LION,
    RAW_LION,
    Program,
    ShortTraining,
    search_optimizers,
    select_by_funnel,
    simplify_by_score,
)


def length(program: Program) -> float:
    return -float(len(program.simplified()))


def test_the_oldest_dies_however_good() -> None:
    """With a constant score: after P cycles no member of the first population is left."""
    seen: list[Program] = []

    def constant(program: Program) -> float:
        seen.append(program)
        return 1.0

    first = search_optimizers([constant], population=10, tournament=3, evaluations=11, seed=4)
    later = search_optimizers([constant], population=10, tournament=3, evaluations=40, seed=4)
    assert len(first.population) == len(later.population) == 10
    assert not {p for p, _ in first.population} & {p for p, _ in later.population}
    assert first.best == later.best == ADAMW and len(later.history) == 1  # nothing was better


def test_counts_and_cache() -> None:
    trained: list[str] = []

    def task(program: Program) -> float:
        trained.append(program.functional_hash())
        return length(program)

    found = search_optimizers([task], population=8, tournament=4, evaluations=150, seed=0)
    stats = found.stats
    assert len(trained) == len(set(trained)) == stats.trained == 150  # no program twice
    assert stats.generated + 1 == stats.invalid + stats.unchanged + stats.cache_hits + stats.trained  # 1: the start
    assert min(stats.invalid, stats.unchanged, stats.cache_hits) > 0
    assert stats.share_not_trained == 1 - 150 / stats.generated
    assert found.score == length(found.best) > length(ADAMW)
    scores = [score for _, score, _ in found.history]
    assert scores == sorted(set(scores)) and found.history[0] == (1, -9.0, ADAMW)
    assert found.best_programs(2)[0] == found.best == found.history[-1][2]
    again = search_optimizers([length], population=8, tournament=4, evaluations=150, seed=0)
    assert again.history == found.history and again.stats == stats


def test_restarts_go_on_from_the_best() -> None:
    seen: list[Program] = []
    task = lambda program: seen.append(program) or length(program)  # noqa: E731
    found = search_optimizers([task], population=5, tournament=5, evaluations=60, restarts=3, seed=1)
    halfway = max(map(length, seen[:20]))
    assert found.stats.trained == 60 and found.score >= halfway
    assert min(len(p) for p in seen[20:26]) < len(ADAMW)  # mutants of what was found, not of the start


def test_a_program_that_breaks_down_on_one_task_is_out() -> None:
    calls: list[int] = []

    def first(program: Program) -> float:
        return 0.0 if program == ADAMW else -math.inf

    def second(program: Program) -> float:
        calls.append(1)
        return 0.0

    found = search_optimizers([first, second], population=3, tournament=2, evaluations=10)
    assert len(calls) == 1 and found.best == ADAMW  # the second task never saw the others
    with pytest.raises(ValueError, match="a task gave NaN as the score of a program"):
        search_optimizers([lambda program: math.nan], evaluations=3, population=2)


def quadratic(seed: int, steps: int = 30) -> ShortTraining:
    """Minimize a badly scaled quadratic."""
    scale = torch.tensor([1.0, 100.0])
    start = [torch.randn(2, generator=torch.Generator().manual_seed(seed)) + 2]
    loss = lambda p, step: (scale * p[0].square()).sum()  # noqa: E731
    return ShortTraining(start, loss, lambda p: -loss(p, 0).item(), steps, bound=1e4)


def test_it_finds_a_better_rule_than_its_start() -> None:
    found = search_optimizers([quadratic(0)], population=10, tournament=5, evaluations=60, seed=2)
    assert found.score > 0.5 * quadratic(0)(ADAMW)
    task = quadratic(0)
    assert task(found.best) == found.score and torch.equal(task.start[0], quadratic(0).start[0])


def test_short_trainings_stop_at_hurdles() -> None:
    seen: list[int] = []

    def loss(params, step: int) -> torch.Tensor:
        seen.append(step)
        return params[0].square().sum()

    task = ShortTraining([torch.ones(3)], loss, lambda p: 0.0, 100, bound=1e6)
    grows = Program.parse("u = g * -5.0\nupdate = u * 1.0")
    assert task(grows) == -math.inf and max(seen) == 5
    assert task(Program.parse("u = log(m)\nupdate = u * lr")) == -math.inf and max(seen) == 5
    assert ShortTraining([torch.ones(3)], loss, lambda p: math.nan, 2)(LION) == -math.inf
    last = Program.parse("u = g / m\nupdate = u * lr")  # infinite at the only step
    assert ShortTraining([torch.ones(3)], loss, lambda p: 0.0, 1)(last) == -math.inf


def test_joined_parameters_are_trained_as_separate_ones() -> None:
    start = [torch.randn(3, 2), torch.randn(2)]
    task = ShortTraining(start, lambda p, step: (p[0] @ p[1] - 1).square().sum(), lambda p: p[0].sum().item(), 20)
    same = Program.parse(str(ADAMW) + "\nn = norm(g)\nz = n * 0.0\nupdate = update + z")  # needs them apart
    assert task(same) == pytest.approx(task(ADAMW), rel=1e-5)


def test_funnel() -> None:
    short = Program.parse("update = g * lr")
    programs = [RAW_LION, LION, ADAMW, short, Program.parse("x = cos(g)\nupdate = g * lr")]
    assert select_by_funnel(programs, [length], ADAMW) == [(short, -1.0), (LION, -7.0)]
    assert select_by_funnel(programs, [length], ADAMW, keep=1) == [(short, -1.0)]
    assert select_by_funnel(programs, [length, lambda p: -length(p)], short) == []
    by_decay = lambda p: float("wd" in str(p)) - 0.1 * (p == ADAMW)  # noqa: E731
    assert select_by_funnel(programs, [length, by_decay], ADAMW) == [(LION, 1.0)]


def test_simplification() -> None:
    found = simplify_by_score(RAW_LION, lambda p: 1.0)  # nothing matters
    assert len(found) == 1 and found.check()
    needs = ("sign", "interp(g, m, 0.9)", "lr * 0.0001")
    noisy = Program.parse("x = sin(w)\nw = w + x\n" + str(LION).replace("0.99)", "0.99123)"))
    kept = simplify_by_score(noisy, lambda p: float(all(text in str(p) for text in needs)))
    assert all(text in str(kept) for text in needs) and len(kept) <= 4
    strict = simplify_by_score(LION, lambda p: 1.0 if p == LION else 0.99)
    assert strict == LION and len(simplify_by_score(LION, lambda p: 1.0 if p == LION else 0.99, tol=0.02)) == 1
    with pytest.raises(ValueError, match=r"^tol must be at least 0, not -1$"):
        simplify_by_score(LION, length, tol=-1)
    with pytest.raises(ValueError, match=r"^a funnel needs at least one stage$"):
        select_by_funnel([LION], [], ADAMW)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": []}, "a search needs at least one task that scores programs"),
        ({"tournament": 11, "population": 10}, "a tournament of 11 can't be drawn from a population of 10"),
        ({"restarts": 0}, "population, tournament, evaluations and restarts must be at least 1"),
        (
            {"weights": (0, 0, 0)},
            "weights must be at least 0 with one above, and max_len at least 1: got (0, 0, 0) and 20",
        ),
        ({"init": Program(())}, "update must be returned as a tensor, but it is never assigned"),
    ],
)
def test_refusals(settings: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        search_optimizers(**{"tasks": [length], **settings})
    assert str(caught.value) == message
