"""Batches that grow with the gradient's noise make AdaGrad as accurate as small batches do, in far fewer steps.

The claim of arXiv:2402.11215, for multinomial regression and a small convolutional network on real digits, at an equal number
of samples; beside constant batches and a schedule that doubles the batch as fast as the controller did.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.digit_classifier import Cut, digits, network
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.claims.engine.paired import difference
from thalweg.data import BatchSizeController, GrowingBatchSampler
from thalweg.optim import SGD, Adagrad

RULE = """\
Test accuracy when a number of samples has been seen, means over fresh seeds. Every arm has the best of 5 learning rates
(network: 3) on another seed and another cut of the data; a best rate at a grid's edge widens the grid. The rate doesn't follow
the batch. Batches grow from 8 by the norm test, at most to all 3500 digits.
For regression and for the network it is asked whether some eta has all of
a. accuracy within 0.5 points of the best constant batch's, in less than a quarter of its steps;
b. accuracy above what constant batches give in as many steps (interpolated over the logarithm of steps between their arms),
   or else a larger constant batch is as good;
c. a steeper fall, as a power of steps fitted to the last factor of ten in them, of the squared gradient averaged over the steps so
   far, than that best constant batch's.
Reproduced: both do. Partly: one does, or a. alone holds for one. Not reproduced: otherwise.
Control: a schedule that doubles the batch at equal numbers of samples, in about as many steps as eta = 0.5. If eta = 0.5 isn't
above it on either problem (95% interval, seed by seed), the schedule explains the gain.
The augmented test and SGD with the norm test (regression only) are shown and decide nothing."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=5), "cpu": Scale(seeds=(11, 12, 13), seconds=220)}

PANELS = (
    Panel(
        "regression",
        "Regression: accuracy for the same samples",
        "steps in the tuning run",
        "right answers (%)",
        log="x",
    ),
    Panel("network", "Network: accuracy for the same samples", "steps in the tuning run", "right answers (%)", log="x"),
    Panel("batch", "Regression: batch size", "samples seen", "largest batch so far", log="xy"),
    Panel("gradient", "Regression: squared gradient, mean over the steps so far", "steps", "squared norm", log="xy"),
)

DOUBLING = "doubling"
FIRST_BATCH = 8
TUNING_SEED, CHUNK = 1000, 512
PROBLEMS = ("regression", "network")


@dataclass(frozen=True)
class Problem:
    etas: tuple[float, ...]
    constants: tuple[int, ...]
    extra: tuple[str, ...]
    grid: tuple[float, ...]
    """Exponents of ten of the learning rates tried first."""
    samples: int

    @property
    def arms(self) -> tuple[str, ...]:
        """The arm eta = 0.5 before the schedule that follows it."""
        return (
            *(f"eta {eta:g}" for eta in self.etas), *(f"batch {b}" for b in self.constants), *self.extra, DOUBLING
        )  # fmt: skip


@dataclass(frozen=True)
class Size:
    problems: Mapping[str, Problem]
    examples: int


SIZES = {
    "smoke": Size(
        {
            "regression": Problem((0.5, 0.9), (16, 64), ("augmented", "SGD, eta 0.5"), (-1.0,), 128),
            "network": Problem((0.5,), (16, 64), (), (-2.0,), 128),
        },
        64,
    ),
    "cpu": Size(
        {
            "regression": Problem(
                (0.25, 0.5, 0.9), (16, 128, 1024, 3500), ("augmented", "SGD, eta 0.5"),
                (-2.5, -2.0, -1.5, -1.0, -0.5), 140_000,
            ),
            "network": Problem((0.5, 0.9), (16, 128, 1024), (), (-2.5, -2.0, -1.5), 17_500),
        },
        3500,
    ),
}  # fmt: skip


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """The learning rate of every arm, and the pace of the schedule that doubles."""
    size, chosen = SIZES[scale], {}
    for place, name in enumerate(PROBLEMS):
        problem, lrs, counts, pace = size.problems[name], {}, {}, 1
        for number, arm in enumerate(problem.arms):
            report((place + number / len(problem.arms)) / 2, f"{name}, choosing the rate of {arm}")
            steps: dict[float, int] = {}

            def scores(
                exponents: list[float],
                arm: str = arm,
                name: str = name,
                pace: int = pace,
                steps: dict[float, int] = steps,
            ) -> list[tuple[float, float]]:
                found = []
                for exponent in exponents:
                    course = _train(name, arm, 10**exponent, TUNING_SEED, size, pace)
                    steps[exponent] = course.steps
                    found.append(course.score)
                return found

            if len(problem.grid) > 1:
                exponent = best_on_log_grid(scores, problem.grid, widen=2)
            else:
                (exponent,) = problem.grid
                scores([exponent])
            lrs[arm], counts[arm] = 10**exponent, steps[exponent]
            if arm == "eta 0.5":
                pace = _pace(steps[exponent], problem.samples, size.examples)
        chosen[name] = {"lr": lrs, "steps": counts, "pace": pace}
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """Every arm of both problems."""
    size = SIZES[scale]
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    for place, name in enumerate(PROBLEMS):
        arms = size.problems[name].arms
        for number, arm in enumerate(arms):
            report((place + number / len(arms)) / 2, f"{name}, {arm}")
            found = _train(name, arm, chosen[name]["lr"][arm], seed, size, chosen[name]["pace"])
            key = f"{name}, {arm}"
            numbers |= {
                f"{key}: test accuracy": found.accuracy, f"{key}: steps": float(found.steps), f"{key}: slope": found.slope,
                f"{key}: last batch": float(found.batches[-1]), f"{key}: learning rate": chosen[name]["lr"][arm],
            }  # fmt: skip
            role: Role = "measured" if arm.startswith("eta") else "control"
            curves.append(Curve(name, arm, (float(chosen[name]["steps"][arm]),), (100 * found.accuracy,), role))
            if name == "regression" and (arm.startswith("eta") or arm in (DOUBLING, "batch 128")):
                seen, largest = (
                    list(itertools.accumulate(found.batches)),
                    list(itertools.accumulate(found.batches, max)),
                )
                places = sorted({round(1.15**k) - 1 for k in range(80)} & set(range(len(seen))))
                x, y = (tuple(float(row[k]) for k in places) for row in (seen, largest))
                curves.append(Curve("batch", arm, x, y, role))
                curves.append(Curve("gradient", arm, tuple(map(float, found.marks)), found.squares, role))
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    whole, fast, words = [], [], []
    for name in PROBLEMS:
        found = _holds(measurements, name)
        words.append(found[0])
        whole += [name] if found[1] else []
        fast += [name] if found[2] else []
    because = " ".join(words)
    gain = [
        difference(
            *([m.numbers[f"{name}, {arm}: test accuracy"] for m in measurements] for arm in ("eta 0.5", DOUBLING))
        )
        for name in PROBLEMS
    ]
    because += " eta 0.5 minus the doubling schedule: " + ", ".join(
        f"{100 * g.mean:+.2f} points ({100 * g.low:+.2f} to {100 * g.high:+.2f}) for the {name}"
        for name, g in zip(PROBLEMS, gain, strict=True)
    ) + "."  # fmt: skip
    explained = None if any(g.above for g in gain) else "batches that double at a fixed pace"
    if len(whole) == len(PROBLEMS):
        return Verdict("reproduced", because, explained)
    if whole or fast:
        others = " and the ".join(name for name in PROBLEMS if name not in whole)
        likely = f"on the {others} a constant batch of another size, or its rate, does as well"
        return Verdict("partly", f"{because} Likely reason: {likely}.", explained)
    likely = "with 3500 digits the test soon asks for all of them, and a few dozen steps are too few"
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")


def _holds(measurements: list[Measurement], name: str) -> tuple[str, bool, bool]:
    """In words what one problem shows; whether some eta has a, b and c; whether some has a."""

    def mean(arm: str, what: str) -> float:
        return sum(m.numbers[f"{name}, {arm}: {what}"] for m in measurements) / len(measurements)

    start = f"{name}, "
    arms = [
        key[len(start) : -len(": steps")]
        for key in measurements[0].numbers
        if key.startswith(start) and key.endswith(": steps")
    ]
    constants = [arm for arm in arms if arm.startswith("batch ")]
    etas = [arm for arm in arms if arm.startswith("eta ")]
    best = max(constants, key=lambda arm: mean(arm, "test accuracy"))
    known = sorted((math.log(mean(arm, "steps")), mean(arm, "test accuracy")) for arm in constants)
    whole = fast = False
    for arm in etas:
        near = mean(arm, "test accuracy") >= mean(best, "test accuracy") - 0.005
        quick = mean(arm, "steps") < mean(best, "steps") / 4
        beyond = mean(arm, "test accuracy") > _interpolated(known, math.log(mean(arm, "steps")))
        steeper = mean(arm, "slope") < mean(best, "slope")
        fast |= near and quick
        whole |= near and quick and beyond and steeper
    listed = ", ".join(
        f"{arm} {100 * mean(arm, 'test accuracy'):.2f}% in {mean(arm, 'steps'):.0f} steps (slope {mean(arm, 'slope'):.2f})"
        for arm in (*etas, *constants, DOUBLING)
    )
    return f"{name.capitalize()}: {listed}; the best constant one is {best}.", whole, fast


def _interpolated(points: list[tuple[float, float]], x: float) -> float:
    """Between neighbouring points on a straight line; the first or last value beyond them."""
    if x <= points[0][0]:
        return points[0][1]
    for (a, low), (b, high) in itertools.pairwise(points):
        if x <= b:
            return low + (high - low) * (x - a) / (b - a)
    return points[-1][1]


@dataclass(frozen=True)
class _Course:
    """A training: batches, accuracies at the end, and the mean of the squared full gradient so far at some steps."""

    batches: tuple[int, ...]
    accuracy: float
    score: tuple[float, float]
    marks: tuple[int, ...]
    squares: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.batches)

    @property
    def slope(self) -> float:
        """Power of steps with which the mean squared gradient falls over the last factor of ten, by least squares."""
        late = [(k, v) for k, v in zip(self.marks, self.squares, strict=True) if k >= self.marks[-1] / 10]
        x, y = torch.tensor(late, dtype=torch.float64).log().T
        x = x - x.mean()
        return float((x * y).sum() / (x * x).sum())


def _train(name: str, arm: str, lr: float, seed: int, size: Size, pace: int) -> _Course:
    """Until the problem's number of samples has been seen."""
    torch.manual_seed(seed)
    model: nn.Module = (
        network(batch_norm=False) if name == "network" else nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    )
    optimizer: torch.optim.Optimizer
    if arm.startswith("SGD"):
        optimizer = SGD(model.parameters(), lr=lr, momentum=0.0)
    else:
        optimizer = Adagrad(model.parameters(), lr=lr, initial_accumulator_value=1e-2)
    inputs, targets = (tensor[: size.examples] for tensor in digits()["train"])
    batches: list[int] = []
    marks: list[int] = []
    means: list[float] = []
    total = last = 0.0
    for rows, backward in _batches(arm, size.examples, seed, size.problems[name].samples, pace):
        backward(model, F.cross_entropy, inputs[rows], targets[rows])
        optimizer.step()
        batches.append(len(rows))
        if not marks or len(batches) >= 1.5 * marks[-1]:
            square = _squared_gradient(model, inputs, targets)
            # Between marks the square is taken to change evenly.
            total += (len(batches) - marks[-1]) * (square + last) / 2 if marks else square
            last = square
            marks.append(len(batches))
            means.append(total / len(batches))
    accuracy, _ = _measured(model, "test")
    right, loss = _measured(model, "validation")
    return _Course(tuple(batches), accuracy, (1 - right, loss), tuple(marks), tuple(means))


def _batches(
    arm: str, examples: int, seed: int, samples: int, pace: int
) -> Iterator[tuple[list[int], Callable[..., Tensor]]]:
    """Rows of every batch, and the function that makes its gradient: the arm's way to choose sizes."""
    settings: dict[str, Any] = {"eta": float(arm.split()[-1])} if "eta" in arm else {}
    if arm == "augmented":
        settings["test"] = "augmented"
    first = int(arm.split()[1]) if arm.startswith("batch") else FIRST_BATCH
    controller = BatchSizeController(min(first, examples), max_batch=examples, **settings)
    backward = partial(controller.backward, chunk_size=CHUNK) if settings else _plain_backward
    sampler = GrowingBatchSampler(range(examples), controller, generator=torch.Generator().manual_seed(seed))
    seen = 0
    while True:
        for rows in sampler:
            yield rows, backward
            seen += len(rows)
            if arm == DOUBLING:
                controller.batch_size = min(examples, FIRST_BATCH * 2 ** min(30, seen // pace))
            if seen >= samples:
                return


def _plain_backward(model: nn.Module, loss_fn: Callable[..., Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    model.zero_grad()
    loss = loss_fn(model(inputs), targets)
    loss.backward()
    return loss.detach()


def _squared_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Of the mean loss over all training digits; a training that broke down counts as the largest number."""
    gradients = torch.autograd.grad(F.cross_entropy(model(inputs), targets), list(model.parameters()))
    value = sum(g.double().square().sum().item() for g in gradients)
    return value if 0 < value < 1e30 else 1e30


@torch.no_grad()
def _measured(model: nn.Module, cut: Cut) -> tuple[float, float]:
    """Share of right answers and mean loss."""
    inputs, targets = digits()[cut]
    outputs = model(inputs)
    loss = F.cross_entropy(outputs, targets).item()
    return (outputs.argmax(1) == targets).double().mean().item(), loss if math.isfinite(loss) else math.inf


def _pace(steps: int, samples: int, examples: int) -> int:
    """Samples after which to double, so that the number of steps is nearest to ``steps``."""

    def steps_at(pace: int) -> int:
        seen = count = 0
        while seen < samples:
            left = examples - seen % examples  # an epoch's last batch is what is left of it
            seen += min(left, examples, FIRST_BATCH * 2 ** min(30, seen // pace))
            count += 1
        return count

    return min((round(1.1**k) for k in range(1, 140) if 1.1**k < samples), key=lambda pace: abs(steps_at(pace) - steps))
