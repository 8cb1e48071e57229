"""Natural GaLore ends at a lower loss than GaLore: an empirical Fisher matrix before Adam helps.

The claim of arXiv:2410.16029 on noisy least squares, where a Fisher matrix has something to say, and on a byte-level language model of
real text; with GaLore at the rank that takes as many bytes as the control.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict, Word
from thalweg.claims.engine.language_model import Course, Size
from thalweg.claims.engine.matrix_arms import (
    Arm,
    Plan,
    Trainer,
    adam_settings,
    adamw,
    choose_rates,
    in_words,
    run_arms,
)
from thalweg.claims.engine.paired import Difference, difference
from thalweg.linalg.haar import haar
from thalweg.optim import GaLore, NaturalGaLore

RULE = """\
Least squares: 200 unknowns as a 20 x 10 matrix, curvatures spread evenly in the logarithm from 1e-4 to 1 along random directions,
gradients of 20 random rows, 500 steps, rank 5; judged by the logarithm of the exact loss. Language model: real text as bytes, 2 blocks
of width 32, rank 4, AdamW at its best rate for the rest; validation loss. A new subspace every 50 steps in both. On another seed the
learning rate and the length of Natural GaLore's history (5 or 20) are chosen, and GaLore's learning rate among as many settings, twice
as finely spaced; a best rate at a grid's edge widens the grid. 5 fresh seeds; "below" means that the whole 95% interval of the
differences seed by seed is.
Reproduced: Natural GaLore ends below GaLore on both tasks. Partly: on one of them; or it is below on both at a quarter of the steps.
Not reproduced: otherwise.
Control: GaLore at the rank at which its state takes as many bytes as Natural GaLore's, at GaLore's rate. Where Natural GaLore gains,
and this control's mean is no higher than Natural GaLore's on all tasks where it does, the larger state explains it."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=4), "cpu": Scale(seeds=(11, 12, 13, 14, 15), seconds=150)}

PANELS = (
    Panel("least squares", "Noisy least squares", "step", "logarithm of the loss"),
    Panel("language model", "Language model: validation loss", "step", "nats per byte"),
)

TASKS = ("least squares", "language model")
HISTORIES = (5, 20)
STATE = "state over GaLore's"
ROWS, COLUMNS, BATCH = 20, 10, 20


@dataclass(frozen=True)
class Rule:
    """What differs between the tasks: rank, shapes of the projected matrices, and middle exponents of ten of the rates."""

    rank: int
    shapes: tuple[tuple[int, int], ...]
    galore: float
    natural: float


RULES = {
    "least squares": Rule(5, ((ROWS, COLUMNS),), -1.0, -1.0),
    "language model": Rule(4, ((96, 32), (32, 32), (128, 32), (32, 128)), -2.0, -2.0),
}
STEPS = {"smoke": 8, "cpu": 500}
PLANS = {
    "smoke": Plan(Size(steps=4, width=32, context=16, evaluations=4, valid_windows=8), widen=None),
    "cpu": Plan(Size(steps=200, width=32, context=32, evaluations=8, valid_windows=256), widen=4),
}


def arms(task: str, rank: int | None = None, histories: tuple[int, ...] = HISTORIES) -> dict[str, Arm]:
    """What is tuned on a task; with a ``rank`` also GaLore of that rank."""
    rule = RULES[task]
    found: dict[str, Arm] = {}
    if task == "language model":
        found["AdamW, one rate"] = Arm(adamw, -2.5)
    found["GaLore"] = _galore(rule.rank, rule.galore)
    for history in histories:
        found[_natural_name(history)] = _natural(rule.rank, history, rule.natural)
    if rank is not None:
        found["GaLore, same bytes"] = _galore(rank, rule.galore, "control")
    return found


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """Learning rates of all arms; the better history; and the rank at which GaLore's state is as large."""
    chosen: dict[str, Any] = {}
    for place, task in enumerate(TASKS):

        def part(share: float, doing: str = "", place: int = place, task: str = task) -> None:
            report((place + share) / len(TASKS), f"{task}: {doing}")

        rates: dict[str, Any] = choose_rates(arms(task), _trainer(task, scale), PLANS[scale].widen, report=part)
        history = min(HISTORIES, key=lambda history: rates[_natural_name(history)]["loss"])
        chosen[task] = {"rates": rates, "history": history, "rank": rank_of_as_many_bytes(task, history)}
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """GaLore, Natural GaLore with the chosen history, and the control on both tasks."""
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    for place, task in enumerate(TASKS):
        settings = chosen[task]
        compared = arms(task, settings["rank"], (settings["history"],))
        rates = {**settings["rates"], "GaLore, same bytes": settings["rates"]["GaLore"]}

        def part(share: float, doing: str = "", place: int = place, task: str = task) -> None:
            report((place + share) / len(TASKS), f"{task}: {doing}")

        courses = run_arms(compared, rates, _trainer(task, scale), seed, report=part)
        for name, course in courses.items():
            label = "Natural GaLore" if name.startswith("Natural") else name
            numbers[f"{task}, {label}: last loss"] = course.final
            numbers[f"{task}, {label}: loss at a quarter"] = course.losses[len(course.losses) // 4]
            curves.append(Curve(task, label, course.steps, course.losses, compared[name].role))
        numbers[f"{task}: history"] = float(settings["history"])
        numbers[f"{task}: {STATE}"] = _words(task, RULES[task].rank, settings["history"]) / _words(
            task, RULES[task].rank, 0
        )
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def compare(task: str, when: str, other: str) -> Difference:
        return difference(
            *([m.numbers[f"{task}, {arm}: {when}"] for m in measurements] for arm in ("Natural GaLore", other))
        )

    last = {task: compare(task, "last loss", "GaLore") for task in TASKS}
    early = {task: compare(task, "loss at a quarter", "GaLore") for task in TASKS}
    control = {task: compare(task, "last loss", "GaLore, same bytes") for task in TASKS}
    won = [task for task in TASKS if last[task].below]
    both_early = all(found.below for found in early.values())
    first = measurements[0].numbers
    because = "; ".join(
        f"{task}: Natural GaLore (history {first[f'{task}: history']:.0f}, state {first[f'{task}: {STATE}']:.1f} "
        f"times GaLore's) minus GaLore {in_words(last[task])} at the end and {in_words(early[task])} at a quarter, and minus GaLore "
        f"with as many bytes {in_words(control[task])}"
        for task in TASKS
    )
    because = f"{because[0].upper()}{because[1:]} (intervals below 0)."
    gained = won or (list(TASKS) if both_early else [])
    explained = None
    if gained and all(control[task].mean >= 0 for task in gained):
        explained = "a larger state: GaLore of a higher rank, with as many bytes"
    if len(won) == len(TASKS):
        return Verdict("reproduced", because, explained)
    likely = "Adam divides by the size of what it gets, which undoes most of what the inverse Fisher matrix does"
    word: Word = "partly" if gained else "not reproduced at this scale"
    return Verdict(word, f"{because} Likely reason: {likely}.", explained)


def rank_of_as_many_bytes(task: str, history: int) -> int:
    """The largest rank at which GaLore's state over a task's matrices is no larger than Natural GaLore's with that history."""
    rule = RULES[task]
    most = max(min(shape) for shape in rule.shapes)
    budget = _words(task, rule.rank, history)
    return max(rank for rank in range(rule.rank, most + 1) if _words(task, rank, 0) <= budget)


def _words(task: str, rank: int, history: int) -> int:
    """Numbers of state: two moments and the history of the longer side, a basis of the shorter one."""
    return sum(rank * ((2 + history) * max(shape) + min(shape)) for shape in RULES[task].shapes)


def _natural_name(history: int) -> str:
    return f"Natural GaLore, history {history}"


def _galore(rank: int, middle: float, role: Role = "measured") -> Arm:
    """Twice as many rates as for each history of the other, over the same range."""

    def make(model: Any, rate: float, rest: float) -> GaLore:
        return GaLore(model, **adam_settings(rate, rest), rank=rank, update_every=50, scale=1.0)

    return Arm(make, middle, role, points=6, spacing=0.25)


def _natural(rank: int, history: int, middle: float) -> Arm:
    def make(model: Any, rate: float, rest: float) -> NaturalGaLore:
        settings = {**adam_settings(rate, rest), "rank": rank, "update_every": 50, "scale": 1.0}
        return NaturalGaLore(model, history=history, **settings)

    return Arm(make, middle)


def _trainer(task: str, scale: str) -> Trainer:
    return PLANS[scale].trainer if task == "language model" else partial(least_squares, steps=STEPS[scale])


def least_squares(make: Callable[[Any], torch.optim.Optimizer], seed: int, *, steps: int) -> Course:
    """Train one matrix, its learning rate falling to 0 in a line; losses are natural logarithms of the exact one.

    With curvature C, the loss is (w - w*)' C (w - w*) / 2 and a gradient the mean over 20 rows x from N(0, C) of x x' (w - w*).
    """
    draws = torch.Generator().manual_seed(seed)
    size = ROWS * COLUMNS
    directions = haar(size, size, generator=draws, dtype=torch.float64).float()
    root = directions * torch.logspace(-2, 0, size)
    goal = torch.randn(size, generator=draws)
    weights = nn.Parameter(torch.zeros(ROWS, COLUMNS))
    optimizer = make([weights])
    rates = [float(group["lr"]) for group in optimizer.param_groups]

    def log_loss() -> float:
        loss = (root.T @ (weights.detach().flatten() - goal)).square().sum() / 2
        return min(loss.clamp(min=1e-30).log().item(), LARGEST) if bool(loss.isfinite()) else LARGEST

    seen, losses = [0.0], [log_loss()]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - step / steps)
        rows = torch.randn(BATCH, size, generator=draws) @ root.T
        gradient = rows.T @ (rows @ (weights.detach().flatten() - goal)) / BATCH
        weights.grad = gradient.view_as(weights)
        optimizer.step()
        if (step + 1) % max(1, steps // 20) == 0:
            seen.append(step + 1.0)
            losses.append(log_loss())
    return Course(tuple(seen), tuple(losses))


LARGEST = 20.0
"""Logarithm of the loss of a training that broke down."""
