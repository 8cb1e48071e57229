"""Sharpness-aware minimization for each task, its parts combined separately, lifts every way to combine tasks' gradients.

The claim of arXiv:2211.13723 on two overlapping digits in one picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Scale, Verdict
from thalweg.claims.engine.digit_classifier import Cut
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.claims.engine.paired import Difference, difference
from thalweg.claims.engine.two_digits import (
    VARIANTS,
    Net,
    Pictures,
    accuracies,
    calibration_error,
    pictures,
    sharpness,
    task_losses,
)
from thalweg.optim import AdamW, MultiTaskSAM, mean_gradient

RULE = """\
Two MNIST digits overlap in a picture of 36 x 36, shown at half that size; task 1 names the upper left one, task 2 the lower right
one. Network 324-64-32 with a head a task, 2000 pictures, batches of 100, Adam. Variants: basic; noisy (30% of task 2's training
labels drawn at random); few labels (task 1 has a tenth of them). Gradients are combined by their mean, MGDA, PCGrad or CAGrad (0.4);
each is run plain, with SAM's gradients combined directly, and decomposed as the paper says. Plain gets 16 epochs and SAM 8, as
many backward passes. Chosen on another seed, in the basic variant, by validation accuracy, five settings an arm and more at an
edge: plain's learning rate; with that rate SAM's radius, adaptive or not. The deciding number is the mean of both tasks' accuracies
on test digits at the end; intervals are 95% of differences paired by seed.
1. SAM: decomposed is above plain in at least 2 variants, for at least 3 of the 4 ways to combine.
2. Decomposition: over MGDA, PCGrad, CAGrad and the variants, the mean of decomposed minus direct is above 0. (For the mean gradient
   they are the same.)
Reproduced: both. Partly: the first only. Not reproduced: otherwise. Not testable, if plain training on the mean gradient overfits
by less than 0.02 in the basic variant (training minus test accuracy), so that flatness has nothing to mend.
If part 1 fails against plain training that is stopped at its best epoch by 2000 clean validation pictures, early stopping explains
the gain; else, if SAM on the mean gradient isn't below the other three's mean, ordinary SAM without a multi-task rule does."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=10), "cpu": Scale(seeds=(11, 12, 13, 14), seconds=270)}

PANELS = (
    Panel("gain", "Decomposed SAM minus plain", "variant: 1 basic, 2 noisy, 3 few labels", "test accuracy (points)"),
    Panel("course", "Basic variant, MGDA", "backward passes a picture and task", "test accuracy (%)"),
    Panel("sharp", "Basic variant, end", "rise of the loss within 0.1", "test accuracy (%)", log="x"),
)

TUNING_SEED = 1000
BATCH = 100
RADII = ((0.02, False), (0.05, False), (0.1, False), (0.5, True), (1.0, True))


@dataclass(frozen=True)
class Size:
    """Pictures to train on and to measure with; epochs of SAM, half of plain's; learning rates, as exponents; radii."""

    pictures: int
    measured: int
    epochs: int
    exponents: tuple[float, ...]
    radii: tuple[tuple[float, bool], ...]

    @property
    def counts(self) -> dict[Cut, int]:
        """Pictures of each cut."""
        return {"train": self.pictures, "validation": self.measured, "test": self.measured}


SIZES = {
    "smoke": Size(100, 60, 1, (-3.0, -2.5), RADII[1:2]),
    "cpu": Size(2000, 2000, 8, (-3.6, -3.3, -3.0, -2.7, -2.4), RADII),
}


def shortest(g: Tensor) -> Tensor:
    """MGDA for two tasks: the point nearest to zero between their gradients."""
    first, second = g
    weight = (second @ (second - first) / (first - second).square().sum().clamp(min=1e-30)).clamp(0, 1)
    return weight * first + (1 - weight) * second


def without_conflicts(g: Tensor) -> Tensor:
    """PCGrad for two tasks: each gradient loses its part against the other; then the sum."""
    first, second = g
    dot = (first @ second).clamp(max=0)
    sizes = g.square().sum(1).clamp(min=1e-30)
    return first - dot / sizes[1] * second + second - dot / sizes[0] * first


def conflict_averse(g: Tensor, c: float = 0.4, halvings: int = 40) -> Tensor:
    r"""CAGrad for two tasks: :math:`g_0 + c \|g_0\| g_w / \|g_w\|`, with the worst convex combination :math:`g_w`."""
    gram = (g @ g.T).double().tolist()
    (aa, ab), (_, bb) = gram
    size = 0.5 * max(aa + 2 * ab + bb, 0.0) ** 0.5  # of the mean gradient

    def slope(w: float) -> float:
        """Derivative of <g_w, g_0> + c |g_0| |g_w|, which is convex."""
        norm = max(w * w * aa + 2 * w * (1 - w) * ab + (1 - w) ** 2 * bb, 1e-60) ** 0.5
        return 0.5 * (aa - bb) + c * size * (w * aa + (1 - 2 * w) * ab - (1 - w) * bb) / norm

    low, high = 0.0, 1.0
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    worst = high * g[0] + (1 - high) * g[1]
    return (g.mean(0) + c * size * worst / worst.norm().clamp(min=1e-30)) / (1 + c * c)


COMBINE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": mean_gradient,
    "MGDA": shortest,
    "PCGrad": without_conflicts,
    "CAGrad": conflict_averse,
}
OTHERS = ("MGDA", "PCGrad", "CAGrad")
SAM_ARMS = [("mean", "decomposed"), *itertools.product(OTHERS, ("direct", "decomposed"))]


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """Every rule's learning rate without SAM, and every SAM arm's radius at that rate."""
    size = SIZES[scale]
    data = pictures("basic", size.counts, TUNING_SEED)
    rates: dict[str, float] = {}
    for place, rule in enumerate(COMBINE):
        report(0.1 * place, f"choosing the learning rate of {rule}")

        def scores(exponents: list[float], rule: str = rule) -> list[float]:
            return [-_tried(rule, "plain", {"lr": 10**e}, size, data) for e in exponents]

        rates[rule] = 10 ** best_on_log_grid(scores, size.exponents, widen=3 if scale == "cpu" else 0)
    radii: dict[str, dict[str, Any]] = {}
    for place, (rule, arm) in enumerate(SAM_ARMS):
        report(0.4 + 0.6 * place / len(SAM_ARMS), f"choosing the radius of {rule}, {arm}")
        radii[f"{rule}, {arm}"] = _best_radius(rule, arm, rates[rule], size, data)
    plain = {f"{rule}, plain": {"lr": rate} for rule, rate in rates.items()}
    return {**plain, **radii}


def _best_radius(rule: str, arm: str, lr: float, size: Size, data: dict[Cut, Pictures]) -> dict[str, Any]:
    """The radius with the highest validation accuracy; the largest of its kind is doubled while it wins, twice at most."""
    found: dict[tuple[float, bool], float] = {}
    todo = list(size.radii)
    while todo and len(found) < len(size.radii) + 2:
        for rho, adaptive in todo:
            found[rho, adaptive] = _tried(rule, arm, {"lr": lr, "rho": rho, "adaptive": adaptive}, size, data)
        rho, adaptive = max(found, key=found.__getitem__)
        edge = len(size.radii) > 1 and rho == max(r for r, kind in found if kind == adaptive)
        todo = [(2 * rho, adaptive)] if edge else []
    return {"lr": lr, "rho": rho, "adaptive": adaptive}


def _tried(rule: str, arm: str, settings: dict[str, Any], size: Size, data: dict[Cut, Pictures]) -> float:
    *_, net = _epochs(rule, arm, settings, size, data["train"], TUNING_SEED)
    return sum(accuracies(net, data["validation"]))


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """All arms in all variants."""
    size, arms = SIZES[scale], [*((rule, "plain") for rule in COMBINE), *SAM_ARMS]
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    data = {variant: pictures(variant, size.counts, seed) for variant in VARIANTS}
    for place, (variant, (rule, arm)) in enumerate(itertools.product(VARIANTS, arms)):
        report(place / (len(VARIANTS) * len(arms)), f"{variant}: {rule}, {arm}")
        own = data[variant]
        seen, early = [], (-1.0, 0.0)
        for net in _epochs(rule, arm, chosen[f"{rule}, {arm}"], size, own["train"], seed):
            seen.append(sum(accuracies(net, own["test"])) / 2)
            early = max(early, (sum(accuracies(net, own["validation"])), seen[-1]))
        key = f"{variant}, {rule}, {arm}"
        numbers |= {f"{key}: {name}": value for name, value in _ends(net, own).items()}
        if arm == "plain":
            numbers |= {f"{key}: stopped early": early[1], f"{key}: half the epochs": seen[size.epochs]}
        if variant == "basic":
            rise, accuracy = (numbers[f"{key}: {name}"] for name in ("sharpness", "accuracy"))
            curves.append(
                Curve(
                    "sharp", f"{rule}, {arm}", (rise,), (100 * accuracy,), "control" if arm == "plain" else "measured"
                )
            )
            if rule == "MGDA":
                passes = tuple(epoch * (1.0 if arm == "plain" else 2.0) for epoch in range(len(seen)))
                curves.append(Curve("course", f"MGDA, {arm}", passes, tuple(100 * a for a in seen)))
    for rule in COMBINE:
        gains = (
            100 * (numbers[f"{v}, {rule}, decomposed: accuracy"] - numbers[f"{v}, {rule}, plain: accuracy"])
            for v in VARIANTS
        )
        curves.append(Curve("gain", rule, (1.0, 2.0, 3.0), tuple(gains)))
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    rows = [m.numbers for m in measurements]

    def gain(variant: str, rule: str, of: str) -> Difference:
        decomposed = [row[f"{variant}, {rule}, decomposed: accuracy"] for row in rows]
        return difference(decomposed, [row[f"{variant}, {rule}, plain: {of}"] for row in rows])

    def winners(of: str) -> list[str]:
        """Rules that decomposed SAM lifts in two variants or more."""
        return [rule for rule in COMBINE if sum(gain(v, rule, of).above for v in VARIANTS) >= 2]

    def means(arm: str, rules: tuple[str, ...]) -> list[float]:
        keys = [f"{v}, {rule}, {arm}: accuracy" for v in VARIANTS for rule in rules]
        return [sum(row[key] for key in keys) / len(keys) for row in rows]

    good = winners("accuracy")
    parts = difference(means("decomposed", OTHERS), means("direct", OTHERS))
    ordinary = difference(means("decomposed", ("mean",)), means("decomposed", OTHERS))
    overfit = sum(
        row["basic, mean, plain: training accuracy"] - row["basic, mean, plain: accuracy"] for row in rows
    ) / len(rows)
    because = (
        f"Decomposed SAM is above plain training of equal cost in two variants or more for {len(good)} of {len(COMBINE)} rules (at "
        f"least 3{': ' + ', '.join(good) if good else ''}), on average by "
        f"{100 * sum(gain(v, r, 'accuracy').mean for v in VARIANTS for r in COMBINE) / 12:.1f} points. Decomposed minus direct is "
        f"{_points(parts)}, SAM on the mean gradient minus the other three {_points(ordinary)}; plain training overfits by "
        f"{100 * overfit:.1f}."
    )
    if overfit < 0.02:
        return Verdict("not testable at this scale", f"{because} The likely reason: the task is too easy to overfit.")
    explained = None
    if len(winners("stopped early")) < 3:
        explained = "early stopping of plain training"
    elif not ordinary.below:
        explained = "ordinary SAM on the mean gradient"
    if len(good) >= 3 and parts.above:
        return Verdict("reproduced", because, explained)
    if len(good) >= 3:
        reason = "with two tasks the flatness parts, of the size of the radius, rarely conflict"
        return Verdict("partly", f"{because} The likely reason: {reason}.", explained)
    reason = "a small perceptron, whose tasks conflict little and which plain training fits in as many passes"
    return Verdict("not reproduced at this scale", f"{because} The likely reason: {reason}.")


def _points(found: Difference) -> str:
    return f"{100 * found.mean:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def _epochs(rule: str, arm: str, settings: Mapping[str, Any], size: Size, data: Pictures, seed: int) -> Iterator[Net]:
    """The network at the start and after every epoch; start and order of the batches depend on the seed alone."""
    net, generator = Net(seed), torch.Generator().manual_seed(seed)
    shared, heads = list(net.trunk.parameters()), [list(head.parameters()) for head in net.heads]
    combine = COMBINE[rule]
    if arm == "plain":
        adam = AdamW(net.parameters(), weight_decay=0.0, **settings)
    else:
        options = {"aggregate": arm, "weight_decay": 0.0, **settings}
        sam = MultiTaskSAM(shared, heads, combine, AdamW, **options)
    yield net
    for _ in range(size.epochs * (2 if arm == "plain" else 1)):
        for rows in torch.randperm(len(data.x), generator=generator).split(BATCH):

            def losses(rows: Tensor = rows) -> list[Tensor]:
                return task_losses(net, data, rows)

            if arm == "plain":
                _combine_gradients(losses(), shared, heads, combine)
                adam.step()
            else:
                sam.step(losses)
        yield net


def _combine_gradients(
    losses: list[Tensor],
    shared: list[nn.Parameter],
    heads: list[list[nn.Parameter]],
    combine: Callable[[Tensor], Tensor],
) -> None:
    """The tasks' combined gradient for the shared weights, each task's own for its head."""
    rows = []
    for loss, head in zip(losses, heads, strict=True):
        found = torch.autograd.grad(loss, [*shared, *head], retain_graph=True)
        rows.append(torch.cat([g.flatten() for g in found[: len(shared)]]))
        for p, g in zip(head, found[len(shared) :], strict=True):
            p.grad = g
    pieces = combine(torch.stack(rows)).split([p.numel() for p in shared])
    for p, piece in zip(shared, pieces, strict=True):
        p.grad = piece.view_as(p)


def _ends(net: Net, data: dict[Cut, Pictures]) -> dict[str, float]:
    """What is measured at the end: of test pictures accuracies and calibration, of training pictures accuracy and sharpness."""
    test, training = accuracies(net, data["test"]), accuracies(net, data["train"])
    return {
        "accuracy": sum(test) / 2,
        "worst task": min(test),
        "training accuracy": sum(training) / 2,
        "calibration error": calibration_error(net, data["test"]),
        "sharpness": sharpness(net, data["train"]),
    }
