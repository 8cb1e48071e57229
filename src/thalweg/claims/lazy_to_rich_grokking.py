"""A network that starts lazily fits its training data long before it generalizes, with no weight decay.

The claim of arXiv:2310.06110 on its polynomial regression: a larger output scale makes the start lazier and the delay longer, less
curvature makes it longer, too; the linearized network never generalizes.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.paired import difference
from thalweg.linalg.mean_field_quadratic import Moments, descent_step, population_loss, predict, tangent_kernel
from thalweg.nn import MeanFieldQuadratic
from thalweg.probe import GrokkingTimes, grokking_times, kernel_alignment
from thalweg.solve import kernel_gd_path
from thalweg.tasks.single_index import single_index_quadratic

RULE = """\
275 examples of the square of one direction of 50 Gaussian inputs (mean square 0.75), a centred network of 200 units with curvature
0.1, full-batch descent with the step size 10 N / alpha^2 and no weight decay, output scales alpha of 0.5, 1, 2, 4. G is the step at
which the test loss first is 0.075 (a tenth of the mean square) over that at which the training loss is; where the test loss isn't
by the end (8000 steps), the number of steps stands for it, so that G is a lower bound. At gpu scale these are the paper's 550
examples, 100 inputs and 500 units, and 40000 steps. Six things must hold.
1. Delay: the seeds' mean of G grows with alpha, and at 4 is at least twice that at 0.5.
2. Linearized network (the closed form of the same descent with the first tangent kernel): when it has fitted to 0.075, and in the
   limit of kernel regression, its test loss is at least three times the trained one's at the end, at every alpha in every seed.
3. The plateau is kernel regression: the larger alpha, the nearer (in the seeds' mean) comes the test loss at the time of fitting to
   the linearized network's at that step, and at alpha 256 it is within 10%.
4. Features: the centred alignment of the tangent kernel with the targets rises from the time of fitting to that of generalizing
   (or the end) at every alpha (95% paired interval), and the weights' norm grows in every run.
5. It isn't the step size: at alpha 0.5 and 1 half the step size gives the same G within 10%, in the seeds' mean.
6. Curvature: at alpha 1 the number of steps from fitting to generalizing, which is what the authors' own sweep over alpha and
   curvature counts, grows from each of the curvatures 0.2, 0.1, 0.05 to the next, in the seeds' mean; never to generalize is
   infinitely many.
And the code must be right: the test loss on 2000 examples is within 10% of the closed form from the weights' moments in the median
over all times (that many squares scatter by about 4%).
Reproduced: all. Partly: 1 and 2. Not reproduced: otherwise. In pilots on other seeds G was 4 to 38, and the linearized network's test
loss 7 times the trained one's at alpha 4. In a pilot the test loss at the time of fitting was 0.92 of the linearized network's at
alpha 64, hence 256 in part 3.
Second version. The first one, "reproduced" on seeds 11 to 15, measured curvature by G, let it decide nothing and left open why G did
the opposite of what the paper says: 6.1, 7.9 and 13.1 at curvature 0.05, 0.1 and 0.2. It's the measure. Counted in steps, as the
authors do, the delay on these seeds was 697, 429 and 344 in the mean, and in every seed fell as they say; so part 6 was written
knowing that it held, and all seeds are new. But fitting slows down yet more when curvature falls, hence G. And G tells laziness, not
alignment: to fit, the weights' second moment must move by the target's over alpha x curvature, so that G should depend on this product
alone. It did: 6.1 at both 0.5 x 0.1 and 1 x 0.05, 12.9 and 13.1 at 2 x 0.1 and 1 x 0.2. The first kernel's alignment hardly changes
at these curvatures (0.019 to 0.020 from 0.02 to 0.2 in a trial). So less curvature makes all of training longer, but the start neither
lazier nor less aligned; both measures are in the verdict. Runs with other curvature or step size now last 4000 steps, not 2500."""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=3),
    "cpu": Scale(seeds=(41, 42, 43, 44, 45), seconds=160),
    "gpu": Scale(seeds=tuple(range(21, 31)), seconds=800),
}

_STEPS, _TEST = "gradient steps", "mean squared error, test"
PANELS = (
    Panel("delay", "Fitting and generalizing at alpha 1", _STEPS, "mean squared error", log="xy"),
    Panel("scale", "Lazier starts generalize later", _STEPS, _TEST, log="xy"),
    Panel(
        "gap",
        "The delay as a ratio goes with alpha x curvature",
        "alpha x curvature / 0.1",
        "steps to generalize / to fit",
        log="xy",
    ),
    Panel(
        "curvature",
        "The delay in steps grows as curvature falls",
        "curvature, at alpha 1",
        "steps from fitting to generalizing",
        log="xy",
    ),
    Panel("aligned", "The kernel turns to the targets", _STEPS, "alignment with the targets", log="x"),
    Panel("parts", "Parts of the test loss at alpha 1", _STEPS, "mean squared error", log="xy"),
)

LEVEL, SCALE_OF_LINEAR = 0.075, 256.0
ALPHAS = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Size:
    dim: int
    examples: int
    width: int
    steps: int
    side_steps: int
    """Of the runs at alpha 0.5 and 1 with half the step size or other curvature."""
    speed: float
    """Step size over N / alpha^2."""
    tests: int = 2000


SIZES = {
    "smoke": Size(10, 45, 60, 800, 250, 3.0),
    "cpu": Size(50, 275, 200, 8000, 4000, 10.0),
    "gpu": Size(100, 550, 500, 40_000, 10_000, 10.0),
}
"""At gpu scale the paper's own network and data, and steps enough for the laziest of the compared starts to generalize, too."""
EPS = 0.1


class Problem(NamedTuple):
    """Data and start of one seed."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    beta: Tensor
    start: Moments
    width: int


class Course(NamedTuple):
    """What one run gave at ``steps``."""

    steps: list[int]
    train: list[float]
    test: list[float]
    alignment: list[float]
    parts: list[list[float]]
    """Total, offset, linear and misalignment by the closed form."""
    norm: list[float]
    """Of all weights, over that at the start."""


def run(scale: str, seed: int, *, report: Report) -> Measurement:
    """All alphas from the same start on the same data."""
    size = SIZES[scale]
    problem, speed = _draw(size, seed), size.speed
    report(0.0, "output scales")
    main = _train(problem, [(a, EPS, speed) for a in (*ALPHAS, SCALE_OF_LINEAR)], size.steps)
    report(0.8, "step sizes and curvatures")
    side = _train(
        problem, [(0.5, EPS, speed / 2), (1.0, EPS, speed / 2), (1.0, 0.05, speed), (1.0, 0.2, speed)], size.side_steps
    )
    report(0.95, "linearized network")
    shown = main[0].steps
    linear_train, linear_test = _linearized(problem, [*shown, math.inf], speed)
    linear_times = _times(shown, linear_train[:-1], linear_test[:-1])
    numbers = {"linear: limit": linear_test[-1]}
    numbers["linear: when fitted"] = (
        linear_test[shown.index(int(linear_times.fitted))] if math.isfinite(linear_times.fitted) else linear_test[-1]
    )
    off = []
    for alpha, course in zip((*ALPHAS, SCALE_OF_LINEAR), main, strict=True):
        numbers |= _numbers(f"{alpha:g}", course)
        off += [abs(a / b[0] - 1) for a, b in zip(course.test, course.parts, strict=True)]
        times = _times(course.steps, course.train, course.test)
        if math.isfinite(times.fitted):
            at = shown.index(int(times.fitted))
            numbers[f"over linear/{alpha:g}"] = course.test[at] / linear_test[at]
        else:
            numbers[f"over linear/{alpha:g}"] = math.inf
    numbers["off theory"] = statistics.median(off)
    for name, course in zip(("0.5, half", "1, half", "eps 0.05", "eps 0.2"), side, strict=True):
        numbers |= _numbers(name, course)
    return Measurement(numbers, tuple(_curves(main, shown, linear_test, numbers)))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    seeds = [m.numbers for m in measurements]

    def mean(name: str) -> float:
        return statistics.mean(n[name] for n in seeds)

    names = [f"{alpha:g}" for alpha in ALPHAS]
    unfit = [name for name in (*names, f"{SCALE_OF_LINEAR:g}") if any(math.isinf(n[f"fitted/{name}"]) for n in seeds)]
    if unfit:
        return Verdict(
            "not testable at this scale",
            f"At alpha {', '.join(unfit)} the training data aren't fitted in every seed. Likely reason: too few steps.",
        )
    gaps = [mean(f"gap/{name}") for name in names]
    bound = [name for name in names if any(n[f"bound/{name}"] for n in seeds)]
    times = min(min(n["linear: when fitted"], n["linear: limit"]) / n[f"end/{name}"] for n in seeds for name in names)
    near = [mean(f"over linear/{name}") for name in (*names, f"{SCALE_OF_LINEAR:g}")]
    distances = [abs(share - 1) for share in near]
    rises = [
        difference([n[f"alignment later/{name}"] for n in seeds], [n[f"alignment fitted/{name}"] for n in seeds]).above
        for name in names
    ]
    grown = min(n[f"norm/{name}"] for n in seeds for name in names)
    halves = [mean(f"gap/{name}, half") / mean(f"gap/{name}") for name in ("0.5", "1")]
    delays = [
        statistics.mean(n[f"general/{name}"] - n[f"fitted/{name}"] for n in seeds)
        for name in ("eps 0.05", "1", "eps 0.2")
    ]
    ratios = [mean("gap/eps 0.05"), gaps[1], mean("gap/eps 0.2")]
    turned = "grow instead" if all(a < b for a, b in itertools.pairwise(ratios)) else "don't grow"
    off = statistics.median(n["off theory"] for n in seeds)
    holds = {
        "the delay doesn't grow with the scale": all(a < b for a, b in itertools.pairwise(gaps))
        and gaps[-1] >= 2 * gaps[0],
        "the linearized network generalizes, too": times >= 3,
        "these scales aren't lazy enough for the plateau to be that of kernel regression": distances[-1] <= 0.1
        and all(a > b for a, b in itertools.pairwise(distances)),
        "the kernel's alignment is no sign of generalizing here, or the weights shrink": all(rises) and grown > 1,
        "the delay depends on the step size": all(abs(share - 1) <= 0.1 for share in halves),
        "curvature doesn't shorten the delay": all(a > b for a, b in itertools.pairwise(delays)),
        "an error in the code": off <= 0.1,
    }
    because = (
        f"Steps to generalize over steps to fit at alpha {', '.join(names)}: {', '.join(f'{gap:.1f}' for gap in gaps)}"
        f"{' (lower bounds at alpha ' + ', '.join(bound) + ')' if bound else ''} (growing, twice); linearized network "
        f"{times:.1f} times the trained one's test loss (3); test loss when fitted over the linearized one's: "
        f"{', '.join(f'{share:.2f}' for share in near)} at alpha up to 256 (ever nearer to 1, at last within 10%); alignment rises at "
        f"{sum(rises)} of {len(rises)} scales; weights grow to {grown:.3f} times at least; half the step size: "
        f"{halves[0]:.2f} and {halves[1]:.2f} of the delay (within 10%); {off:.1%} from the closed form (10%). From fitting to "
        f"generalizing at alpha 1 and curvature 0.05, 0.1, 0.2: {', '.join(f'{delay:.0f}' for delay in delays)} steps (ever fewer). "
        f"As ratios these delays {turned}: {', '.join(f'{ratio:.1f}' for ratio in ratios)}, beside {gaps[0]:.1f} and {gaps[2]:.1f} "
        f"at curvature 0.1 with as large products of alpha and curvature as the first and the last."
    )
    if all(holds.values()):
        return Verdict("reproduced", because)
    likely = f" Likely reason: {'; '.join(why for why, held in holds.items() if not held)}."
    delay, linear, *_, right = holds.values()
    return Verdict("partly" if delay and linear and right else "not reproduced at this scale", because + likely)


def _draw(size: Size, seed: int) -> Problem:
    draws = torch.Generator().manual_seed(seed)
    x, y, beta = single_index_quadratic(size.examples, size.dim, generator=draws)
    x_test, y_test, _ = single_index_quadratic(size.tests, size.dim, beta=beta, generator=draws)
    net = MeanFieldQuadratic(size.dim, size.width, EPS, generator=draws, dtype=torch.float64)
    return Problem(x, y, x_test, y_test, beta, Moments.of(net.weight.detach()), size.width)


def _train(problem: Problem, runs: Sequence[tuple[float, float, float]], steps: int) -> list[Course]:
    """Runs of (alpha, curvature, speed), measured at about 3% more steps each time."""
    alpha, eps, speed = torch.tensor(runs, dtype=torch.float64).T
    start = Moments(problem.start.mean.expand(len(runs), -1), problem.start.second.expand(len(runs), -1, -1))
    now, courses = start, [Course([], [], [], [], [], []) for _ in runs]
    y = problem.y
    shown = {round(1.03**k) for k in range(math.ceil(math.log(steps) / math.log(1.03)))} | {0, steps}
    for step in range(steps + 1):
        after, train = descent_step(now, start, problem.x, y, alpha, eps, speed)
        if step in shown:
            change = now.minus(start)
            test = (predict(change, problem.x_test, alpha, eps) - problem.y_test).square().mean(-1)
            kernel = tangent_kernel(now, problem.x, problem.x, alpha, eps, problem.width)
            aligned = kernel_alignment(kernel, torch.outer(y, y), center=True)
            parts = torch.stack(population_loss(change, problem.beta, alpha, eps), -1)
            norm = (_trace(now.second) / _trace(start.second)).sqrt()
            for i, course in enumerate(courses):
                course.steps.append(step)
                course.train.append(train[i].item())
                course.test.append(test[i].item())
                course.alignment.append(aligned[i].item())
                course.parts.append(parts[i].tolist())
                course.norm.append(norm[i].item())
        now = after
    return courses


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)


def _linearized(problem: Problem, steps: Sequence[float], speed: float) -> tuple[list[float], list[float]]:
    """Training and test loss of the same descent with the first tangent kernel; no alpha matters."""
    start, width = problem.start, problem.width
    kernel, other = (tangent_kernel(start, x, problem.x, 1.0, EPS, width) for x in (problem.x, problem.x_test))
    found = []
    for K, target in ((kernel, problem.y), (other, problem.y_test)):
        # steps of s N on the mean square are steps of 2 s N on half of it
        path = kernel_gd_path(kernel, problem.y.unsqueeze(1), steps, K_test=K, lr=2 * speed * width).squeeze(-1)
        found.append((path - target).square().mean(-1).tolist())
    return found[0], found[1]


def _times(steps: Sequence[int], train: Sequence[float], test: Sequence[float]) -> GrokkingTimes:
    """When the losses first are at the level; less is better, hence the signs."""
    return grokking_times(steps, [-v for v in train], [-v for v in test], fitted=-LEVEL, general=-LEVEL)


def _numbers(name: str, course: Course) -> dict[str, float]:
    times = _times(course.steps, course.train, course.test)
    never = math.isinf(times.general)
    later = min(times.general, course.steps[-1])
    numbers = {
        f"fitted/{name}": times.fitted,
        f"general/{name}": times.general,
        f"gap/{name}": later / times.fitted,
        f"bound/{name}": float(never),
        f"end/{name}": course.test[-1],
        f"highest/{name}": max(course.test),
        f"norm/{name}": course.norm[-1],
        f"alignment later/{name}": course.alignment[course.steps.index(int(later))],
    }
    fitted = course.steps.index(int(times.fitted)) if math.isfinite(times.fitted) else -1
    return numbers | {f"alignment fitted/{name}": course.alignment[fitted], f"plateau/{name}": course.test[fitted]}


def _curves(
    main: Sequence[Course], shown: Sequence[int], linear: Sequence[float], numbers: Mapping[str, float]
) -> list[Curve]:
    picked = [i for i, step in enumerate(shown) if step > 0]
    x = tuple(float(shown[i]) for i in picked)

    def line(panel: str, label: str, values: Sequence[float], role: Role = "measured") -> Curve:
        return Curve(panel, label, x, tuple(values[i] for i in picked), role)

    one = main[ALPHAS.index(1.0)]
    curves = [
        line("delay", "training", one.train),
        line("delay", "test", one.test),
        line("delay", "test, from the weights' moments", [parts[0] for parts in one.parts], "theory"),
        line("delay", "test, linearized network", linear, "control"),
    ]
    for alpha, course in zip((*ALPHAS, SCALE_OF_LINEAR), main, strict=True):
        curves.append(line("scale", f"alpha {alpha:g}", course.test))
        if alpha != SCALE_OF_LINEAR:
            curves.append(line("aligned", f"alpha {alpha:g}", course.alignment))
    curves.append(line("scale", "linearized network", linear, "theory"))
    curves += [
        line("parts", name, [parts[k] for parts in one.parts], "theory")
        for k, name in ((1, "mean error"), (2, "linear part"), (3, "misalignment"))
    ]
    curves.append(line("parts", "test", one.test))
    curves.append(Curve("gap", "alpha 0.5 to 4 at curvature 0.1", ALPHAS, tuple(numbers[f"gap/{a:g}"] for a in ALPHAS)))
    half = tuple(numbers[f"gap/{name}, half"] for name in ("0.5", "1"))
    curves.append(Curve("gap", "half the step size", (0.5, 1.0), half, "control"))
    others = tuple(numbers[f"gap/{name}"] for name in ("eps 0.05", "1", "eps 0.2"))
    curves.append(Curve("gap", "curvature 0.05, 0.1, 0.2 at alpha 1", (0.5, 1.0, 2.0), others))
    steps = tuple(numbers[f"general/{name}"] - numbers[f"fitted/{name}"] for name in ("eps 0.05", "1", "eps 0.2"))
    curves.append(Curve("curvature", "alpha 1", (0.05, EPS, 0.2), steps))
    return curves
