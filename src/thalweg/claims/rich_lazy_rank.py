"""At equal weight norm, a start of low rank learns richly and one of high rank lazily, unless the low rank suits the task.

The claim of arXiv:2310.08513: a linear network whose start is small, where the kernel's change has a closed form, and recurrent
networks on two tasks of decisions over time and on MNIST digits that are read row by row.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.paired import difference
from thalweg.init import aligned_low_rank_, low_rank_matched_
from thalweg.init.low_rank import Norm
from thalweg.linalg.linear_descent import descent_step_
from thalweg.linalg.small_start_kernel import mean_small_start_alignment, small_start_alignment
from thalweg.probe import LazinessTracker, effective_rank, kernel_alignment
from thalweg.tasks.evidence import delayed_match, two_alternatives
from thalweg.tasks.mnist5k import read_images
from thalweg.tasks.remembered import remembered

RULE = """\
1. Theory. In a linear network of 32 inputs and 64 hidden units, started at Frobenius norm 0.01 with rank 1 to 32, the alignment of
   the kernels before and after training is within 1% of the closed form for a vanishing start, for every target and rank and
   for a start of rank one that is aligned with its target, in every seed (a pilot: 0.01%); the mean over targets and seeds is
   within 3% of the closed form's mean over all targets (50 targets scatter by about 0.6%) and grows with the rank.
2. Recurrent networks (200 ReLU units, ranks 1 to 200 at the Frobenius norm of a Gaussian start of gain 1.25; at gpu scale 1000
   units, ranks 1 to 1000) on three tasks, stopped at equal loss on other examples, as a network that has learnt less has changed
   less. Over all ranks and seeds, rank correlation with the start's rank: above 0.8 for the alignment of kernels, above 0.8 for that
   of hidden activity, below -0.8 for the distance that the recurrent weights moved (four ranks, five seeds: 0.97 at most; six ranks:
   0.99), each on two tasks or more.
Runs that don't arrive (within 2000 steps, 10000 at gpu scale, or because they diverge) are left out and counted. A task counts if
every rank arrives in at least half of the seeds.
Reproduced: both. Partly: 1, and either one of the three measures on two tasks, or rank 1 is richer than full rank by all three
(95% paired interval) on two tasks. Not reproduced: otherwise. Not testable: fewer than two tasks count.
Pilots on other seeds: kernels and activity go with the rank on most tasks, the distance does on the digits alone.
Shown, but deciding nothing: the linear network at norms 1 and 8, where a start is large enough to be lazy at any rank; recurrent
networks at equal spectral norm, where low rank means a smaller start, too."""

SCALES = {
    "smoke": Scale(seeds=(0,), seconds=5),
    "cpu": Scale(seeds=(11, 12, 13, 14, 15), seconds=200),
    "gpu": Scale(seeds=tuple(range(21, 29)), seconds=800),
}

_RANK, _KERNEL, _MOVED = "rank of the start", "alignment of kernels before and after", "distance that the weights moved"
PANELS = (
    Panel("linear", "Linear network: alignment against theory", _RANK, _KERNEL, log="x"),
    Panel("kernel", "Recurrent networks: kernel alignment", _RANK, _KERNEL, log="x"),
    Panel("weights", "Recurrent networks: change of the weights", _RANK, _MOVED, log="xy"),
    Panel("activity", "Recurrent networks: hidden activity", _RANK, "alignment of activity before and after", log="x"),
    Panel("spectral", "Control: equal spectral norm", _RANK, _KERNEL, log="x"),
)

INPUTS, HIDDEN, TARGETS, LINEAR_RANKS = 32, 64, 10, (1, 2, 4, 8, 16, 32)
SMALL, STARTS = 0.01, {0.01: (0.05, TARGETS), 1.0: (0.05, 4), 8.0: (0.5 / 64, 4)}
"""Learning rates and numbers of targets by the Frobenius norm of the linear network's start."""
GAIN, MOMENTUM, BATCH, EVERY, HELD_OUT, PROBES = 1.25, 0.9, 32, 5, 128, 20
LEVELS = {"two alternatives": 0.05, "delayed match": 0.05, "digits": 0.7}
"""Loss on other examples at which training stops."""
LRS = {"two alternatives": 1e-3, "delayed match": 2e-3, "digits": 3e-3}
"""The same for all ranks, so small that rank one seldom diverges (gradients aren't clipped: that would hold back low ranks alone)."""
CONTROLS = ("two alternatives", "delayed match")
SIGNS = {"kernel": 1, "activity": 1, "weights": -1}
"""Which way each measure goes with the rank, if the claim holds."""


@dataclass(frozen=True)
class Size:
    width: int
    ranks: tuple[int, ...]
    most: int
    """Steps."""
    control_most: int
    tasks: tuple[str, ...]
    speed: float = 1.0
    """Learning rates over :data:`LRS`."""
    norms: tuple[float, ...] = tuple(STARTS)
    """Of the linear network's starts."""


SIZES = {
    "smoke": Size(60, (1, 60), 200, 20, ("two alternatives", "delayed match"), norms=(SMALL, 1.0)),
    "cpu": Size(200, (1, 10, 50, 200), 2000, 600, tuple(LEVELS)),
    "gpu": Size(1000, (1, 10, 30, 100, 300, 1000), 10_000, 3000, tuple(LEVELS), 0.2),
}
"""At gpu scale five times the units, so that ranks in the middle lie further from both ends, rates as much smaller (tangent kernels
grow with the width), and the paper's 10,000 steps."""
Weights = list[Tensor]
Numbers = Mapping[str, float]


def run(scale: str, seed: int, *, report: Report) -> Measurement:
    """The linear network, then the recurrent ones; all ranks from the same draws and on the same batches."""
    size = SIZES[scale]
    report(0.0, "linear network")
    numbers, curves = _linear(seed, size.norms)
    work: list[tuple[str, Norm]] = [(task, "frobenius") for task in size.tasks]
    work += [(task, "spectral") for task in CONTROLS]
    for done, (task, norm) in enumerate(work):
        report(0.05 + 0.95 * done / len(work), f"{task}, equal {norm} norm")
        found, lines = _recurrent(size, task, norm, seed)
        numbers |= found
        curves += lines
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    seeds = [m.numbers for m in measurements]
    first, told = _theory_holds(seeds)
    tasks = list(dict.fromkeys(name.split("/")[1] for name in seeds[0] if name.startswith("steps/")))
    ranks = [int(name.split("/")[3]) for name in seeds[0] if name.startswith(f"steps/{tasks[0]}/frobenius/")]
    points = {task: [(n, r) for n in seeds for r in ranks if _arrived(n, task, r)] for task in tasks}
    missing = len(tasks) * len(ranks) * len(seeds) - sum(map(len, points.values()))
    counted = [t for t in tasks if all(2 * sum(r == rank for _, r in points[t]) >= len(seeds) for rank in ranks)]
    if len(counted) < 2:
        return Verdict(
            "not testable at this scale",
            f"On {len(counted)} of {len(tasks)} tasks every rank arrives in half of the seeds (two are needed). Likely reason: "
            "too few steps, or a learning rate that is too large for low rank.",
        )
    found = {
        measure: {t: _spearman([(r, n[f"{measure}/{t}/frobenius/{r}"]) for n, r in points[t]]) for t in counted}
        for measure in SIGNS
    }
    agree = {measure: sum(SIGNS[measure] * rho > 0.8 for rho in by.values()) for measure, by in found.items()}
    extremes = sum(_rank_one_is_richer(seeds, task, ranks[0], ranks[-1]) for task in counted)
    lines = (f"{measure} {', '.join(f'{rho:.2f}' for rho in by.values())}" for measure, by in found.items())
    because = (
        f"{told} Recurrent networks, rank correlation on {', '.join(counted)}: {'; '.join(lines)} (above 0.8, weights below -0.8, "
        f"on two tasks); rank one richer than full rank by all three measures on {extremes} of {len(counted)}; {missing} of the runs "
        "didn't arrive."
    )
    if first and all(count >= 2 for count in agree.values()):
        return Verdict("reproduced", because)
    failed = [measure for measure, count in agree.items() if count < 2]
    likely = (
        f" Likely reason: {_why(seeds, counted, ranks, failed)}" if failed else " Likely reason: an error in the code."
    )
    if first and (len(failed) < 3 or extremes >= 2):
        return Verdict("partly", because + likely)
    return Verdict("not reproduced at this scale", because + likely)


def _theory_holds(seeds: Sequence[Numbers]) -> tuple[bool, str]:
    """Part 1."""
    means = [statistics.mean(n[f"linear/{SMALL:g}/{r}"] for n in seeds) for r in LINEAR_RANKS]
    theory = [statistics.mean(n[f"linear theory/{r}"] for n in seeds) for r in LINEAR_RANKS]
    each = max(n["linear: off theory"] for n in seeds)
    mean = max(abs(a / b - 1) for a, b in zip(means, theory, strict=True))
    grows = all(a < b for a, b in itertools.pairwise(means))
    told = (
        f"Linear network: alignment within {each:.2%} of theory for every target (1%), {mean:.1%} in the mean (3%), "
        f"{'growing' if grows else 'not growing'} with the rank from {means[0]:.3f} to {means[-1]:.3f}."
    )
    return each <= 0.01 and mean <= 0.03 and grows, told


def _why(seeds: Sequence[Numbers], tasks: Sequence[str], ranks: Sequence[int], failed: Sequence[str]) -> str:
    """What the measures that fail have against them."""
    if failed != ["weights"]:
        return "ranks in the middle don't differ from full rank by more than seeds do, at this width and few steps."
    low, full = ranks[0], ranks[-1]

    def median(measure: str, task: str, rank: int) -> float:
        return statistics.median(n[f"{measure}/{task}/frobenius/{rank}"] for n in seeds if _arrived(n, task, rank))

    shorter = [task for task in tasks if median("weights", task, low) < median("weights", task, full)]
    if not shorter:
        return "distances differ by more between seeds than between ranks."
    cases = (
        f"on {task} rank one moves {median('weights', task, low):.2f} and full rank {median('weights', task, full):.2f}, but the "
        f"alignment of kernels is {median('kernel', task, low):.2f} and {median('kernel', task, full):.2f}"
        for task in shorter
    )
    return f"a short way turns the features of a low rank far: {'; '.join(cases)} (medians)."


def _arrived(numbers: Numbers, task: str, rank: int) -> bool:
    return math.isfinite(numbers[f"steps/{task}/frobenius/{rank}"])


def _rank_one_is_richer(seeds: Sequence[Numbers], task: str, low: int, full: int) -> bool:
    """Whether the paired intervals of all three measures say so."""
    both = [n for n in seeds if _arrived(n, task, low) and _arrived(n, task, full)]
    return bool(both) and all(
        difference(*([sign * n[f"{measure}/{task}/frobenius/{r}"] for n in both] for r in (low, full))).below
        for measure, sign in SIGNS.items()
    )


def _spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Rank correlation; equal values share the mean of their ranks. Zero if one side is constant."""
    values = torch.tensor(pairs, dtype=torch.float64).T.unsqueeze(2)
    ranks = (values > values.mT).double().sum(2) + (values == values.mT).double().sum(2) / 2
    x, y = ranks - ranks.mean(1, keepdim=True)
    return ((x @ y) / (x.norm() * y.norm()).clamp(min=1e-12)).item()


def _linear(seed: int, norms: Sequence[float] = tuple(STARTS)) -> tuple[dict[str, float], list[Curve]]:
    """Part 1: every rank, and starts of rank one that are aligned with their targets, at each of the norms."""
    draws = torch.Generator().manual_seed(seed)
    beta = F.normalize(torch.randn(TARGETS, INPUTS, generator=draws, dtype=torch.float64), dim=1)
    W1 = _linear_starts(beta, draws)
    K0 = W1.mT @ W1
    theory = small_start_alignment(K0, beta)
    means = [float(mean_small_start_alignment(effective_rank(W).mean(), INPUTS)) for W in W1[:-1]]
    numbers = {f"linear theory/{rank}": mean for rank, mean in zip(LINEAR_RANKS, means, strict=True)}
    x, names = tuple(map(float, LINEAR_RANKS)), (*LINEAR_RANKS, "aligned")
    curves = [Curve("linear", "start of norm 0.01", x, tuple(means), "theory")]
    aligned = 2 / (INPUTS + 3) ** 0.5
    for norm in norms:
        lr, targets = STARTS[norm]
        after, moved = _trained(norm * W1[:, :targets], beta[:targets], lr)
        found = kernel_alignment(K0[:, :targets], after)
        if norm == SMALL:
            numbers["linear: off theory"] = (found / theory - 1).abs().max().item()
        kept, far = found.mean(1).tolist(), moved.mean(1).tolist()
        numbers |= {f"linear/{norm:g}/{name}": value for name, value in zip(names, kept, strict=True)}
        numbers |= {f"linear change/{norm:g}/{name}": value for name, value in zip(names, far, strict=True)}
        role: Role = "measured" if norm == SMALL else "control"
        curves.append(Curve("linear", f"start of norm {norm:g}", x, tuple(kept[:-1]), role))
        if norm == SMALL:
            curves.append(Curve("linear", "aligned, rank 1", (1.0, 1.001), (kept[-1], kept[-1])))
            curves.append(Curve("linear", "aligned, rank 1", (1.0, 1.001), (aligned, aligned), "theory"))
    return numbers, curves


def _linear_starts(beta: Tensor, draws: torch.Generator) -> Tensor:
    """First weights of norm one, ``(ranks + 1, targets, hidden, inputs)``; all ranks from the same Gaussians, the aligned last."""
    shape = (len(beta), HIDDEN, INPUTS)
    state, starts = draws.get_state(), []
    for rank in LINEAR_RANKS:
        draws.set_state(state)
        starts.append(low_rank_matched_(torch.empty(shape, dtype=torch.float64), rank, generator=draws))
    starts.append(
        torch.stack([aligned_low_rank_(torch.empty(shape[1:], dtype=beta.dtype), b, generator=draws) for b in beta])
    )
    W1 = torch.stack(starts)
    return W1 / torch.linalg.matrix_norm(W1)[..., None, None]


def _trained(W1: Tensor, beta: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """The kernel after training from second weights of zero, and how far the first weights moved."""
    weights = [W1.flatten(0, 1).clone(), W1.new_zeros(W1.shape[:2].numel(), 1, HIDDEN)]
    target = beta.repeat(len(W1), 1).unsqueeze(1)
    for _ in range(100_000):
        if descent_step_(weights, target, lr).max() <= 5e-4:  # 1e-3 of the first
            break
    else:
        raise RuntimeError("the linear network didn't learn its target")
    first, second = (weight.unflatten(0, W1.shape[:2]) for weight in weights)
    K = first.mT @ first + (second @ second.mT) * torch.eye(INPUTS, dtype=W1.dtype)
    return K, torch.linalg.matrix_norm(first - W1)


class Recurrent(nn.Module):
    """``h <- relu(W_in x + W h)`` along a sequence from h = 0, and a linear reading of the last h; no biases."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.inward, self.recurrent, self.outward = (nn.Parameter(weight) for weight in weights)
        self.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(_states([self.inward, self.recurrent], x)) @ self.outward.mT


def _states(weights: Weights, x: Tensor) -> Tensor:
    """The last state of one network ``(B, n)``, or of a stack ``(nets, B, n)``; ``x`` is ``(B, T, inputs)``."""
    drive = torch.einsum("bti,...ni->t...bn", x, weights[0])
    h = drive[0].relu()
    for row in drive[1:]:
        h = (row + h @ weights[1].mT).relu()
    return h


@remembered
def _digits() -> tuple[Tensor, Tensor]:
    images, labels = read_images()
    return F.avg_pool2d(images, 2).squeeze(1), labels


def _examples(task: str, n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    if task == "two alternatives":
        return two_alternatives(n, generator=draws)
    if task == "delayed match":
        return delayed_match(n, generator=draws)
    rows, labels = _digits()
    picked = torch.randint(len(labels), (n,), generator=draws)
    return rows[picked], labels[picked]


def _recurrent(size: Size, task: str, norm: Norm, seed: int) -> tuple[dict[str, float], list[Curve]]:
    draws = torch.Generator().manual_seed(seed)
    probe = _examples(task, PROBES, draws)[0]
    classes = 10 if task == "digits" else 2
    start = _start(size, probe.shape[2], classes, norm, draws)
    trackers = [
        LazinessTracker(Recurrent([w[i].clone() for w in start]), probe, params=["recurrent"], hidden="last")
        for i in range(len(size.ranks))
    ]
    numbers: dict[str, float] = {}
    lines: dict[str, list[float]] = {measure: [] for measure in SIGNS}
    for rank, tracker, (weights, steps, loss) in zip(
        size.ranks, trackers, _train(size, task, norm, start, draws), strict=True
    ):
        with torch.no_grad():
            for own, trained in zip(tracker.model.parameters(), weights, strict=True):
                own.copy_(trained)
        moved = tracker.report()
        values = {
            "kernel": moved.kernel_alignment,
            "activity": moved.representation_alignment,
            "weights": moved.weight_change,
        }
        values |= {"steps": steps, "loss": loss, "gradient": tracker.kernel.diagonal().mean().sqrt().item()}
        numbers |= {f"{key}/{task}/{norm}/{rank}": _number(value) for key, value in values.items()}
        for measure, line in lines.items():
            line.append(_number(values[measure]) if math.isfinite(steps) else math.inf)
    x = tuple(map(float, size.ranks))
    if norm == "spectral":
        return numbers, [Curve("spectral", task, x, tuple(lines["kernel"]), "control")]
    return numbers, [Curve(measure, task, x, tuple(line)) for measure, line in lines.items()]


def _number(value: float | None) -> float:
    """Infinite where training diverged."""
    return value if value is not None and math.isfinite(value) else math.inf


def _start(size: Size, inputs: int, classes: int, norm: Norm, draws: torch.Generator) -> Weights:
    """A stack of one network a rank, all from the same Gaussian; inputs and outputs start as in torch."""
    n, nets = size.width, len(size.ranks)
    inward = (2 * torch.rand(n, inputs, generator=draws) - 1) / inputs**0.5
    outward = (2 * torch.rand(classes, n, generator=draws) - 1) / n**0.5
    state = draws.get_state()
    recurrent = []
    for rank in size.ranks:
        draws.set_state(state)
        recurrent.append(low_rank_matched_(torch.empty(n, n), rank, GAIN, norm=norm, generator=draws))
    return [inward.repeat(nets, 1, 1), torch.stack(recurrent), outward.repeat(nets, 1, 1)]


def _train(
    size: Size, task: str, norm: Norm, start: Weights, draws: torch.Generator
) -> list[tuple[Weights, float, float]]:
    """Each network's weights, steps and loss where its loss on held-out examples first is at most the task's level."""
    held, answers = _examples(task, HELD_OUT, draws)
    weights, speed = [w.clone() for w in start], [torch.zeros_like(w) for w in start]
    alive, most = torch.arange(len(size.ranks)), size.most if norm == "frobenius" else size.control_most
    done: dict[int, tuple[Weights, float, float]] = {}
    for step in range(most + 1):
        if step % EVERY == 0 or step == most:
            loss = _losses(weights, held, answers).detach()
            stop = ~(loss > LEVELS[task]) | (step == most)  # true for NaN too
            for i in stop.nonzero().squeeze(1).tolist():
                arrived = float(step) if loss[i] <= LEVELS[task] else math.inf
                done[int(alive[i])] = [w[i] for w in weights], arrived, float(loss[i].nan_to_num(math.inf))
            alive, weights, speed = alive[~stop], [w[~stop] for w in weights], [v[~stop] for v in speed]
            if not len(alive):
                break
        x, y = _examples(task, BATCH, draws)
        for w in weights:
            w.requires_grad_()
        gradients = torch.autograd.grad(_losses(weights, x, y).sum(), weights)
        with torch.no_grad():
            for v, g in zip(speed, gradients, strict=True):
                v.mul_(MOMENTUM).add_(g)
            weights = [w - size.speed * LRS[task] * v for w, v in zip(weights, speed, strict=True)]
    return [done[i] for i in range(len(size.ranks))]


def _losses(weights: Weights, x: Tensor, y: Tensor) -> Tensor:
    logits = _states(weights, x) @ weights[2].mT
    return F.cross_entropy(logits.movedim(-1, 1), y.expand(len(logits), -1), reduction="none").mean(1)
