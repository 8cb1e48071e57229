"""Evolution of update rules, started from AdamW, finds better ones than tuning AdamW, and most proposals cost no training.

The claim of arXiv:2302.06675 at a small scale: searches on networks for scikit-learn's digits, what was found tried anew on fresh
seeds, and a funnel to a larger network for MNIST digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.digit_classifier import digits as mnist_digits
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.optim.program_search import Program, SearchResult, ShortTraining, mutate, search_optimizers
from thalweg.optim.program_search.training import cosine

RULE = """\
Proxy task: a 64-32-10 network on scikit-learn's digits, 100 steps of 64, score minus the validation loss on one fixed start and
order. All arms start from AdamW as a program, with its best learning rate of four, and train 150 programs in each of 3 searches:
regularized evolution (population 30, tournament 6; the paper's tournament of 2 is too weak for so few), random chains of 1 to 20
mutations without selection, and random settings of AdamW (learning rate, both decay rates, weight decay, epsilon).
Each arm's best 5 are scored anew on the validation part over 5 fresh starts; the best of them counts, by its loss on test images
over 5 more. Then a funnel: the best 3 of evolution and of AdamW's settings train a 784-64-10 network on MNIST digits for 300 steps,
each with its own learning-rate factor of 5 (an edge widens the grid); the best on validation images counts, by its accuracy on test
images over 3 fresh starts.
1. Evolution's test loss is below that of AdamW's settings, and below that of random chains, in each search.
2. At least 50% of evolution's proposals are not trained: invalid, doing what their parent does, or what was trained before. (The
   paper has 89.1% of candidates found in the cache, late in searches a thousand times longer.)
3. On MNIST the mean accuracy of evolution's programs is at least that of AdamW's settings.
Reproduced: all three. Partly: evolution's mean test loss is below that of AdamW's settings, but something else fails. Not
reproduced: evolution doesn't beat tuning AdamW. That it finds Lion itself is beyond this scale and isn't judged."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=5), "cpu": Scale(seeds=(1, 2, 3), seconds=240)}

PANELS = (
    Panel("search", "Best score so far", "trained programs", "validation loss of the proxy task"),
    Panel("funnel", "MNIST: validation loss by learning rate", "factor of the learning rate", "cross-entropy", log="x"),
)

EVOLUTION, RANDOM, TUNING = "evolution", "random chains", "AdamW's settings"
ROLES: dict[str, Role] = {EVOLUTION: "measured", RANDOM: "control", TUNING: "control"}
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
WORST = 3.0
"""Loss of a training that broke down, and the largest that counts."""
BOUND = 20.0
"""Loss at a hurdle that ends a training."""


@dataclass(frozen=True)
class Plan:
    """Sizes: of the search, of the scoring anew, and of the funnel."""

    trained: int
    population: int
    tournament: int
    steps: int
    fresh: int
    best: int
    funnel_best: int
    funnel_steps: int
    funnel_fresh: int
    factors: tuple[float, ...]


PLANS = {
    "smoke": Plan(12, 4, 2, 10, 1, 2, 1, 5, 1, (-0.5, 0.0)),
    "cpu": Plan(150, 30, 6, 100, 5, 5, 3, 300, 3, (-1.0, -0.5, 0.0, 0.5, 1.0)),
}


def choose(scale: str, *, report: Report) -> dict[str, float]:
    """AdamW's learning rate on the proxy task, on a start of its own."""
    plan = PLANS[scale]
    report(0.0, "choosing AdamW's learning rate")
    scores = {rate: proxy(plan, 1000, "validation")(adamw(lr=rate)) for rate in RATES}
    return {"lr": max(scores, key=scores.__getitem__)}


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, float]) -> Measurement:
    """Three searches with one start, what they found anew, and the funnel."""
    plan, start = PLANS[scale], adamw(lr=chosen["lr"])
    task = proxy(plan, 100 * seed, "validation")
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    found: dict[str, list[tuple[Program, float]]] = {}
    for place, arm in enumerate(ROLES):
        report(0.25 * place, arm)
        if arm == EVOLUTION:
            search = search_optimizers(
                [task], start, plan.population, plan.tournament, evaluations=plan.trained, seed=seed
            )
            found[arm] = [(program, score) for _, score, program in search.history]
            found[arm] += [pair for pair in search.population if pair[1] > -math.inf]
            course = [(count, score) for count, score, _ in search.history]
            numbers |= _counts(search)
        else:
            propose = _chains(start, Random(seed)) if arm == RANDOM else _settings(chosen["lr"], Random(seed))
            found[arm] = [(program, task(program)) for program in _distinct(start, propose, plan.trained)]
            course = [(place + 1, max(s for _, s in found[arm][: place + 1])) for place in range(len(found[arm]))]
        curves.append(_best_so_far(arm, course, plan.trained))
        numbers[f"{arm}: proxy loss"] = -course[-1][1]
    best = {arm: _scored_anew(plan, seed, _best(pairs, plan.best)) for arm, pairs in found.items()}
    for arm, programs in best.items():
        report(0.8, f"{arm} on fresh starts")
        losses = [-proxy(plan, 100 * seed + 50 + k, "test")(programs[0]) for k in range(plan.fresh)]
        numbers[f"{arm}: test loss"] = _mean([min(loss, WORST) for loss in losses])
    for arm in (EVOLUTION, TUNING):
        report(0.9, f"{arm} on MNIST")
        accuracy, curve = _funnel(plan, seed, arm, best[arm][: plan.funnel_best])
        numbers[f"{arm}: MNIST accuracy"] = accuracy
        curves.append(curve)
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    rows = [m.numbers for m in measurements]
    loss = {arm: [row[f"{arm}: test loss"] for row in rows] for arm in ROLES}
    mean = {arm: _mean(values) for arm, values in loss.items()}
    wins = {
        arm: sum(ours < theirs for ours, theirs in zip(loss[EVOLUTION], loss[arm], strict=True))
        for arm in (RANDOM, TUNING)
    }
    parts = {name: _mean([row[f"proposals: {name}"] for row in rows]) for name in ("invalid", "unchanged", "cached")}
    spared = sum(parts.values())
    accuracy = {arm: _mean([row[f"{arm}: MNIST accuracy"] for row in rows]) for arm in (EVOLUTION, TUNING)}
    because = (
        f"Test loss on fresh starts {mean[EVOLUTION]:.4f}, AdamW's settings {mean[TUNING]:.4f} (higher in {wins[TUNING]} of "
        f"{len(rows)} searches), random chains {mean[RANDOM]:.4f} ({wins[RANDOM]} of {len(rows)}). Not trained: "
        f"{100 * spared:.0f}% of proposals (50%): {100 * parts['invalid']:.0f}% invalid, {100 * parts['unchanged']:.0f}% like their "
        f"parent, {100 * parts['cached']:.0f}% cached. MNIST: {100 * accuracy[EVOLUTION]:.2f}% right, AdamW's settings "
        f"{100 * accuracy[TUNING]:.2f}%."
    )
    better, cheap = min(wins.values()) == len(rows), spared >= 0.5
    transfers = accuracy[EVOLUTION] >= accuracy[TUNING]
    if better and cheap and transfers:
        return Verdict("reproduced", because)
    if mean[EVOLUTION] >= mean[TUNING]:
        reason = "a few hundred programs are too few, and constants matter most on a task this small"
        return Verdict("not reproduced at this scale", f"{because} Likely reason: {reason}.")
    reasons = []
    if not better:
        reasons.append("the gain is as small as the luck of single searches")
    if not cheap:
        reasons.append("duplicates become many only in long searches")
    if not transfers:
        reasons.append("programs fit the proxy task (meta-overfitting)")
    return Verdict("partly", f"{because} Likely reason: {'; '.join(reasons)}.")


def adamw(lr: float, b1: float = 0.9, b2: float = 0.999, wd: float = 0.01, eps: float = 0.0) -> Program:
    """AdamW as a program, with other settings."""
    return Program.parse(
        f"""
        g2 = square(g)
        m = interp(g, m, {b1})
        v = interp(g2, v, {b2})
        s = sqrt(v)
        {f"s = s + {eps}" if eps else ""}
        u = m / s
        wd = w * {wd}
        u = u + wd
        lr = lr * {lr}
        update = u * lr
        """
    )


def _chains(start: Program, rng: Random) -> Callable[[], Program]:
    """Random chains of 1 to 20 mutations."""

    def propose() -> Program:
        program = start
        for _ in range(rng.randint(1, 20)):
            program = mutate(program, rng)
        return program

    return propose


def _settings(lr: float, rng: Random) -> Callable[[], Program]:
    """AdamW with random settings, evenly spread on logarithmic scales around the start."""

    def propose() -> Program:
        return adamw(
            lr=lr * 10 ** rng.uniform(-1, 1),
            b1=1 - 0.1 * 10 ** rng.uniform(-1, 0.9),
            b2=1 - 0.001 * 10 ** rng.uniform(-1, 2.5),
            wd=0.01 * 10 ** rng.uniform(-2, 2),
            eps=10 ** rng.uniform(-12, -4),
        )

    return propose


def _distinct(start: Program, propose: Callable[[], Program], count: int) -> list[Program]:
    """The start and other programs, no two of which do the same."""
    found = {start.functional_hash(): start}
    while len(found) < count:
        program = propose()
        found.setdefault(program.functional_hash(), program)
    return list(found.values())


def _best(pairs: Sequence[tuple[Program, float]], count: int) -> list[Program]:
    distinct = {program.functional_hash(): (score, program) for program, score in pairs}
    return [program for _, program in sorted(distinct.values(), key=lambda pair: pair[0], reverse=True)[:count]]


def _scored_anew(plan: Plan, seed: int, programs: list[Program]) -> list[Program]:
    """In the order of their validation loss on fresh starts."""
    tasks = [proxy(plan, 100 * seed + 10 + k, "validation") for k in range(plan.fresh)]
    scores = {program: _mean([max(task(program), -WORST) for task in tasks]) for program in programs}
    return sorted(programs, key=scores.__getitem__, reverse=True)


@cache
def _small_digits() -> dict[str, tuple[Tensor, Tensor]]:
    """scikit-learn's 1797 digits: 1000 to train on, 400 to choose by, 397 that decide."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs, targets = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    bounds = {"train": (0, 1000), "validation": (1000, 1400), "test": (1400, 1797)}
    return {name: (inputs[a:b], targets[a:b]) for name, (a, b) in bounds.items()}


@cache
def _large_digits() -> dict[str, tuple[Tensor, Tensor]]:
    """MNIST-5k, flattened."""
    parts = mnist_digits()
    return {name: (inputs.flatten(1), targets) for name, (inputs, targets) in parts.items()}


def _forward(params: Sequence[Tensor], x: Tensor) -> Tensor:
    return F.linear(F.relu(F.linear(x, params[0], params[1])), params[2], params[3])


def training(
    data: Mapping[str, tuple[Tensor, Tensor]],
    hidden: int,
    steps: int,
    seed: int,
    score: Callable[[Tensor, Tensor], float],
    cut: str,
    factor: float = 1.0,
) -> ShortTraining:
    """A network with one hidden layer, batches of 64; start and order depend on the seed alone."""
    inputs, targets = data["train"]
    draws = torch.Generator().manual_seed(seed)
    start = [
        nn.init.uniform_(torch.empty(shape), -(fan_in**-0.5), fan_in**-0.5, generator=draws)
        for fan_in, fan_out in ((inputs.shape[1], hidden), (hidden, 10))
        for shape in ((fan_out, fan_in), (fan_out,))
    ]
    rows = torch.randint(len(inputs), (steps, 64), generator=draws)
    xs, ys = inputs[rows], targets[rows]
    held_out, labels = data[cut]
    return ShortTraining(
        start,
        lambda params, step: F.cross_entropy(_forward(params, xs[step]), ys[step]),
        lambda params: score(_forward(params, held_out), labels),
        steps,
        bound=BOUND,
        schedule=lambda step, steps: factor * cosine(step, steps),
    )


def _minus_loss(logits: Tensor, labels: Tensor) -> float:
    return -min(F.cross_entropy(logits, labels).item(), WORST)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()


def proxy(plan: Plan, seed: int, cut: str) -> ShortTraining:
    """The task of the search, on one start; the score is minus the loss."""
    return training(_small_digits(), 32, plan.steps, seed, _minus_loss, cut)


def _funnel(plan: Plan, seed: int, arm: str, programs: list[Program]) -> tuple[float, Curve]:
    """Test accuracy of the program, with its own learning rate, that has the lowest validation loss on MNIST; and its grid."""

    def loss(program: Program, exponent: float) -> float:
        task = training(_large_digits(), 64, plan.funnel_steps, 100 * seed, _minus_loss, "validation", 10**exponent)
        return min(-task(program), WORST)

    found: list[tuple[float, int, float, dict[float, float]]] = []
    for program in programs:
        known: dict[float, float] = {}

        def scores(
            exponents: list[float], program: Program = program, known: dict[float, float] = known
        ) -> list[float]:
            known.update({e: loss(program, e) for e in exponents})
            return [known[e] for e in exponents]

        exponent = best_on_log_grid(scores, plan.factors, widen=2)
        found.append((known[exponent], len(found), exponent, dict(sorted(known.items()))))
    _, place, exponent, grid = min(found)
    accuracies = [
        max(
            training(
                _large_digits(), 64, plan.funnel_steps, 100 * seed + 1 + k, _accuracy, "test", 10**exponent
            )(programs[place]),
            0.0,
        )
        for k in range(plan.funnel_fresh)
    ]  # fmt: skip
    curve = Curve("funnel", arm, tuple(10**e for e in plan.factors), tuple(grid[e] for e in plan.factors), ROLES[arm])
    return _mean(accuracies), curve


def _counts(search: SearchResult) -> dict[str, float]:
    """Shares of all proposals; and lengths of the last population, before and after lines that do nothing are taken out."""
    stats = search.stats
    before = [len(program) for program, _ in search.population]
    after = [len(program.simplified()) for program, _ in search.population]
    return {
        "proposals: all": float(stats.generated),
        "proposals: invalid": stats.invalid / stats.generated,
        "proposals: unchanged": stats.unchanged / stats.generated,
        "proposals: cached": stats.cache_hits / stats.generated,
        "last population: lines": _mean(before),
        "last population: lines that matter": _mean(after),
        "best program: lines that matter": float(len(search.best.simplified())),
    }


def _best_so_far(arm: str, course: Sequence[tuple[int, float]], trained: int) -> Curve:
    """A staircase on a fixed grid, so that seeds can be averaged."""
    counts = [max(1, round(trained * share / 50)) for share in range(1, 51)]
    losses = [-max(score for count, score in course if count <= limit) for limit in counts]
    return Curve("search", arm, tuple(map(float, counts)), tuple(losses), ROLES[arm])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
