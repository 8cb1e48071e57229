"""Networks generalize where gradients of examples agree; steps that only shared directions make don't memorize wrong labels.

The claim of arXiv:2203.10036 on MNIST digits: coherence with real and with random labels, then winsorized gradients and medians
of three on half-random labels, against controls that only train more slowly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.autodiff import per_example_gradients
from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.claims.engine.paired import difference
from thalweg.optim import SGD, MicroBatchGradients, clip_gradient_norm, median_of_three, rolling_median, winsorized_mean
from thalweg.probe import GradientCoherence
from thalweg.tasks import mnist5k
from thalweg.tasks.split import stratified_split

RULE = """\
1. Coherence: a 784-64-10 network, SGD of rate 0.1, batch 99; m-coherence of 500 training examples after each of the first ten
   epochs. The peak with real labels is more than 3 times that with random labels (median over seeds).
2. Suppression: 1000 digits of 14 x 14 pixels, half of which get a label drawn at random; a 196-32-10 network, batch 99, 70
   epochs. The gap is the accuracy on the training labels minus that on test digits whose labels are drawn in the same way. At
   least one of winsorized (c of 1 or 4), M3 (median of three micro-batches), RM3 (of three steps) has at most half of SGD's
   mean gap, and its accuracy on true test labels isn't below SGD's (95% interval of paired differences).
   "Slowed" controls: SGD whose every step is scaled to the length that the rule's step has. Such a rule counts only if its own
   control cuts less than half as much off SGD's gap.
Learning rates are chosen for each rule, c too, on another seed, by the accuracy on training examples whose label is right: judged
by clean validation images SGD would get a rate too small to memorize anything.
Reproduced: both. Partly: the first only. Not reproduced: otherwise; not testable if SGD's mean gap is below 0.1, when there is
nothing to suppress. If SGD stopped at its best epoch on 300 clean validation images has no larger gap and no lower test accuracy
than the rule, early stopping explains the gain. Clipped gradients and batches of 396 are shown."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=10), "cpu": Scale(seeds=(11, 12, 13), seconds=290)}

PANELS = (
    Panel("coherence", "Agreement of 500 examples' gradients", "epoch", "m-coherence", log="y"),
    Panel("parts", "Half-random labels: right and wrong ones apart", "epoch", "m-coherence", log="y"),
    Panel("memorized", "Wrong training labels learnt", "epoch", "accuracy on them"),
    Panel("trade", "What suppression costs", "gap", "accuracy on true test labels"),
)

LABELS = {"real": 0.0, "half random": 0.5, "random": 1.0}
RULES = ("winsorized", "M3", "RM3")
ARMS: dict[str, Role] = {"SGD": "measured", **dict.fromkeys(RULES, "measured"), "clipped": "control", "batch 396": "control",
                         **dict.fromkeys((f"SGD, slowed as {rule}" for rule in RULES), "control")}  # fmt: skip
TUNING_SEED = 1000
MAX_NORM = 0.1


@dataclass(frozen=True)
class Size:
    """How much of everything: the first part's images, examples and epochs; the second's images, epochs and tuning."""

    images: int
    measured: int
    epochs: int
    noisy_images: int
    noisy_epochs: int
    tuning_epochs: int
    exponents: tuple[float, ...]
    cs: tuple[int, ...]


SIZES = {
    "smoke": Size(400, 60, 1, 120, 2, 1, (-0.5, 0.0), (1,)),
    "cpu": Size(4000, 500, 10, 1000, 70, 30, (-1.0, -0.5, 0.0), (1, 4)),
}


@dataclass(frozen=True)
class Noisy:
    """Images with labels of which a share is drawn at random, and the right ones."""

    x: Tensor
    given: Tensor
    right: Tensor

    @property
    def wrong(self) -> Tensor:
        """Which labels aren't right."""
        return self.given != self.right


@cache
def _images() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Standardized images (n, 1, 28, 28) and labels: 4000 to train on and 1000 to test."""
    images, labels = mnist5k.read_images()
    train, test = stratified_split(labels, 1000)
    images = (images - images[train].mean()) / images[train].std()
    return (images[train], labels[train]), (images[test], labels[test])


def _noisy(x: Tensor, labels: Tensor, share: float, generator: torch.Generator) -> Noisy:
    drawn = torch.rand(len(labels), generator=generator) < share
    return Noisy(x, torch.where(drawn, torch.randint(10, labels.shape, generator=generator), labels), labels)


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """Learning rates, and c, by the accuracy on training examples whose label is right."""
    size = SIZES[scale]
    data = _small(size, TUNING_SEED)
    arms = [("SGD", 0), *(("winsorized", c) for c in size.cs), ("M3", 0), ("RM3", 0), ("clipped", 0), ("batch 396", 0)]
    rates: dict[str, list[float]] = {}
    for place, (arm, c) in enumerate(arms):
        report(place / len(arms), f"choosing the learning rate of {arm}{f', c = {c}' if c else ''}")
        found: dict[float, float] = {}

        def scores(
            exponents: list[float], arm: str = arm, c: int = c, found: dict[float, float] = found
        ) -> list[float]:
            for e in exponents:
                model = _train(arm, 10**e, c, data[0], size.tuning_epochs, TUNING_SEED)
                found[e] = 1 - _accuracy(model, data[0].x, data[0].given, ~data[0].wrong)
            return [found[e] for e in exponents]

        exponent = best_on_log_grid(scores, size.exponents, widen=2 if scale == "cpu" else 0)
        if arm not in rates or found[exponent] < rates[arm][2]:
            rates[arm] = [10**exponent, float(c), found[exponent]]
    return {arm: row[:2] for arm, row in rates.items()}


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """Coherence with three kinds of labels, then every arm on half-random ones."""
    size = SIZES[scale]
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    for place, (kind, share) in enumerate(LABELS.items()):
        report(0.1 * place, f"coherence with {kind} labels")
        found, drawn = _coherence(kind, share, size, seed)
        numbers |= found
        curves += drawn
    train, validation, test = _small(size, seed)
    for place, (arm, role) in enumerate(ARMS.items()):
        report(0.3 + 0.7 * place / len(ARMS), arm)
        lr, c = chosen[arm.removeprefix("SGD, slowed as ")]
        seen: list[tuple[float, ...]] = []
        for epoch, model in enumerate(_epochs(arm, lr, int(c), train, size.noisy_epochs, seed)):
            if arm == "SGD" or epoch == size.noisy_epochs or epoch % max(1, size.noisy_epochs // 20) == 0:
                seen.append((float(epoch), *_ends(model, train, validation, test)))
        columns = list(zip(*seen, strict=True))
        names = ("gap", "memorized", "test accuracy")
        numbers |= {f"{arm}: {name}": columns[k + 1][-1] for k, name in enumerate(names)}
        numbers |= {f"{arm}: learning rate": lr} | ({f"{arm}: c": float(c)} if c else {})
        curves.append(Curve("memorized", arm, columns[0], columns[2], role))
        curves.append(Curve("trade", arm, (columns[1][-1],), (columns[3][-1],), role))
        if arm == "SGD":
            best = max(seen[1:], key=lambda row: row[4])
            numbers |= {f"SGD, stopped early: {name}": best[k + 1] for k, name in enumerate(names)}
            curves.append(Curve("trade", "SGD, stopped early", (best[1],), (best[3],), "control"))
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    rows = [m.numbers for m in measurements]

    def every(name: str) -> list[float]:
        return [row[name] for row in rows]

    def mean(name: str) -> float:
        return sum(every(name)) / len(rows)

    ratio = sorted(row["peak coherence, real"] / max(row["peak coherence, random"], 1e-9) for row in rows)[
        len(rows) // 2
    ]
    gap = mean("SGD: gap")
    said = [
        f"Peak coherence with real labels is {ratio:.1f} times that with random ones (above 3)",
        f"SGD's gap {gap:.3f}",
    ]
    good, failures = [], []
    for rule in RULES:
        cut, slowed = gap - mean(f"{rule}: gap"), gap - mean(f"SGD, slowed as {rule}: gap")
        accuracy = difference(every(f"{rule}: test accuracy"), every("SGD: test accuracy"))
        said.append(f"{rule} cuts {cut / max(gap, 1e-9):.0%} of it, slowed SGD {slowed / max(gap, 1e-9):.0%}, test accuracy "
                    f"{100 * accuracy.mean:+.1f} points ({100 * accuracy.low:+.1f} to {100 * accuracy.high:+.1f})")  # fmt: skip
        if cut >= gap / 2:
            if accuracy.below:
                failures.append(f"what {rule} suppresses, true labels need too")
            elif slowed >= cut / 2:
                failures.append(f"shorter steps alone do much of what {rule} does")
            else:
                good.append(rule)
    because = "; ".join(said) + "."
    if gap < 0.1:
        return Verdict(
            "not testable at this scale", f"{because} Likely reason: SGD memorizes too little (a gap of at least 0.1)."
        )
    if ratio <= 3:
        reason = "in a short training on easy digits a few examples of a class agree by chance, whatever their labels"
        return Verdict("not reproduced at this scale", f"{because} Likely reason: {reason}.")
    if not good:
        reason = failures[0] if failures else "a batch of 99 still holds several examples of each wrong pattern"
        return Verdict("partly", f"{because} Likely reason: {reason}.")
    best = min(good, key=lambda rule: mean(f"{rule}: gap"))
    early = (
        mean("SGD, stopped early: gap") <= mean(f"{best}: gap")
        and not difference(every("SGD, stopped early: test accuracy"), every(f"{best}: test accuracy")).below
    )
    return Verdict("reproduced", because, "early stopping on 300 clean images" if early else None)


def _coherence(kind: str, share: float, size: Size, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """m-coherence before training and after each epoch; for half-random labels also of the right and wrong ones apart."""
    (x, labels), _ = _images()
    generator = torch.Generator().manual_seed(seed)
    data = _noisy(x[: size.images].flatten(1), labels[: size.images], share, generator)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = SGD(model, lr=0.1, momentum=0.0)
    wrong = data.wrong[: size.measured]
    parts = {"all": torch.ones_like(wrong), "right labels": ~wrong, "wrong labels": wrong}
    if kind != "half random":
        parts = {"all": parts["all"]}
    found: dict[str, list[float]] = {name: [] for name in parts}
    for epoch in range(size.epochs + 1):
        for rows in _batches(len(data.x), 99, generator) if epoch else ():
            optimizer.zero_grad()
            F.cross_entropy(model(data.x[rows]), data.given[rows]).backward()
            optimizer.step()
        collected = {name: GradientCoherence() for name in parts}
        for rows in torch.arange(size.measured).split(100):
            gradients = per_example_gradients(model, F.cross_entropy, data.x[rows], data.given[rows])
            for name, members in parts.items():
                collected[name].update(gradients[members[rows]])
        for name, coherence in collected.items():
            found[name].append(coherence.compute().m_coherence)
    epochs = tuple(map(float, range(size.epochs + 1)))
    curves = [Curve("coherence", kind, epochs, tuple(found.pop("all")))]
    numbers = {f"peak coherence, {kind}": max(curves[0].y[1:]), f"coherence at the end, {kind}": curves[0].y[-1]}
    return numbers, curves + [Curve("parts", name, epochs, tuple(values)) for name, values in found.items()]


def _small(size: Size, seed: int) -> tuple[Noisy, Noisy, Noisy]:
    """Training images of 14 x 14 pixels with half-random labels, 300 clean ones to stop by, and test images with both labels."""
    generator = torch.Generator().manual_seed(seed)
    (x, labels), (test_x, test_labels) = _images()
    x, test_x = (F.avg_pool2d(images, 2).flatten(1) for images in (x, test_x))
    cut, n = torch.randperm(len(x), generator=generator), size.noisy_images
    train, validation = cut[:n], cut[n : n + 300]
    return (
        _noisy(x[train], labels[train], 0.5, generator),
        _noisy(x[validation], labels[validation], 0.0, generator),
        _noisy(test_x, test_labels, 0.5, generator),
    )


def _epochs(arm: str, lr: float, c: int, data: Noisy, epochs: int, seed: int) -> Iterator[nn.Module]:
    """The model at the start and after every epoch."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(196, 32), nn.ReLU(), nn.Linear(32, 10))
    before = {"RM3": rolling_median(), "clipped": clip_gradient_norm(max_norm=MAX_NORM)}.get(arm)
    optimizer = SGD(model, lr=lr, momentum=0.0, before=before)
    generator = torch.Generator().manual_seed(seed)
    past: deque[Tensor] = deque(maxlen=3)
    yield model
    for _ in range(epochs):
        for rows in _batches(len(data.x), 396 if arm == "batch 396" else 99, generator):
            _gradient(arm, c, model, data.x[rows], data.given[rows], past)
            optimizer.step()
        yield model


def _train(arm: str, lr: float, c: int, data: Noisy, epochs: int, seed: int) -> nn.Module:
    *_, model = _epochs(arm, lr, c, data, epochs, seed)
    return model


def _gradient(arm: str, c: int, model: nn.Module, x: Tensor, y: Tensor, past: deque[Tensor]) -> None:
    """Leave the arm's gradient in ``p.grad``; ``past`` holds the last mean gradients for what is slowed as RM3."""
    rule, slowed = arm.removeprefix("SGD, slowed as "), arm.startswith("SGD, slowed")
    model.zero_grad()
    if rule == "winsorized":
        gradients = MicroBatchGradients(model, partial(winsorized_mean, c=c))
        gradients.store_rows(per_example_gradients(model, F.cross_entropy, x, y))
        gradients.combine()
    elif rule == "M3":
        gradients = MicroBatchGradients(model)
        for part, labels in zip(x.chunk(3), y.chunk(3), strict=True):
            F.cross_entropy(model(part), labels).backward()
            gradients.store()
        gradients.combine()
    if not slowed and rule in ("winsorized", "M3"):
        return
    wanted = _flat(model).norm() if slowed and rule != "RM3" else None
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    if slowed:
        past.append(_flat(model))
        if wanted is None:
            wanted = (median_of_three(list(past)) if len(past) == 3 else past[-1]).norm()
        scale = wanted / past[-1].norm().clamp(min=1e-30)
        for p in model.parameters():
            assert p.grad is not None
            p.grad.mul_(scale)


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _batches(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Random batches; a last, smaller one is dropped."""
    return [
        rows
        for rows in torch.randperm(count, generator=generator).split(min(size, count))
        if len(rows) >= min(size, count)
    ]


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, labels: Tensor, members: Tensor | None = None) -> float:
    right = model(x).argmax(1) == labels
    return (right if members is None else right[members]).double().mean().item()


def _ends(model: nn.Module, train: Noisy, validation: Noisy, test: Noisy) -> tuple[float, float, float, float]:
    """Gap, accuracy on the wrong training labels, on true test labels, on the clean validation images."""
    return (
        _accuracy(model, train.x, train.given) - _accuracy(model, test.x, test.given),
        _accuracy(model, train.x, train.given, train.wrong),
        _accuracy(model, test.x, test.right),
        _accuracy(model, validation.x, validation.right),
    )
