"""Lion beats AdamW on images at large batches, and by more the larger the batch.

The claim of arXiv:2302.06675 at the size of a desk: a small network for real digits, four batch sizes at the same number of
epochs, both rules tuned alike for each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Scale, Verdict
from thalweg.claims.engine.digit_classifier import digits
from thalweg.claims.engine.paired import Difference, difference
from thalweg.claims.engine.side_by_side import SideBySide
from thalweg.optim import AdamW, Lion, optimizer_state_bytes
from thalweg.race.schedule import factor

RULE = """\
A network of 196-128-128-10 on real digits (14 x 14 pixels), the same number of epochs at each batch size, warm-up over a
twentieth of the steps, then a cosine to zero. For each batch size AdamW and Lion have their learning rate and weight decay
chosen among 10 settings each, by 500 images that aren't trained on then; where either's best rate lies at an edge of its grid,
both get one more rate, up to three times. Then both train on all 4000 training images, with fresh seeds, from the same starts
on the same batches.
D is Lion's test accuracy minus AdamW's, seed by seed; "above 0" means that the whole 95% interval is.
Reproduced: D at the largest batch is above 0, and D at the largest minus D at the smallest batch is above 0.
Partly: one of the two. Not reproduced: neither; also where both are as good with half the state for Lion.
Training losses, the batches between, and the state's size are shown and decide nothing."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=4), "cpu": Scale(seeds=(11, 12, 13, 14, 15), seconds=200)}

PANELS = (
    Panel("accuracy", "Digits: test accuracy, each at its best setting", "batch size", "right answers (%)", log="x"),
    Panel("gain", "Lion minus AdamW", "batch size", "points", log="x"),
    Panel("loss", "Digits: training loss at the end", "batch size", "mean loss", log="xy"),
    Panel("rate", "Chosen on other seeds: learning rate", "batch size", "learning rate", log="xy"),
)

ARMS = ("AdamW", "Lion")
DECAYS = {"AdamW": (0.0, 0.1), "Lion": (0.0, 1.0)}
RATES = {"AdamW": (-3.5, -3.0, -2.5, -2.0, -1.5), "Lion": (-4.5, -4.0, -3.5, -3.0, -2.5)}
"""Exponents of ten."""
WIDEN, SPACING = 3, 0.5
WIDTHS = (196, 128, 128, 10)
TUNING_SEEDS = (1000, 1001)


@dataclass(frozen=True)
class Size:
    batches: tuple[int, ...]
    epochs: int
    tuning: tuple[tuple[int, int], ...]
    """Epochs and seeds for each batch size, while settings are chosen."""
    examples: int | None
    rates: int


SIZES = {
    "smoke": Size((32, 128), 1, ((1, 1), (1, 1)), 256, 2),
    "cpu": Size((16, 64, 256, 1024), 16, ((8, 1), (16, 1), (16, 1), (16, 2)), None, 5),
}


@dataclass(frozen=True)
class Setting:
    """An optimizer with its settings."""

    arm: str
    exponent: float
    decay: float

    @property
    def rate(self) -> float:
        return 10**self.exponent


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """Learning rate and weight decay of both rules for each batch size."""
    size, chosen = SIZES[scale], {}
    for place, (batch, (epochs, seeds)) in enumerate(zip(size.batches, size.tuning, strict=True)):
        report(place / len(size.batches), f"choosing settings for batches of {batch}")
        best, trials = _tuned(size, batch, epochs, TUNING_SEEDS[:seeds])
        chosen[str(batch)] = {s.arm: [s.exponent, s.decay] for s in best} | {"trials": trials}
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """Both rules at their chosen settings, for each batch size."""
    size = SIZES[scale]
    numbers: dict[str, float] = {}
    for place, batch in enumerate(size.batches):
        report(place / len(size.batches), f"batches of {batch}")
        settings = [Setting(arm, *chosen[str(batch)][arm]) for arm in ARMS]
        (train, labels), test = _data("all", size.examples), _data("test", None)
        nets, state = _train(settings, seed, batch, size.epochs, train, labels)
        accuracies, losses = nets.measured(*test)[0], nets.measured(train, labels)[1]
        for setting, accuracy, loss, words in zip(settings, accuracies, losses, state, strict=True):
            about = f"batch {batch}, {setting.arm}"
            numbers |= {
                f"{about}: test accuracy": accuracy,
                f"{about}: training loss": loss,
                f"{about}: learning rate": setting.rate,
                f"{about}: weight decay": setting.decay,
                f"{about}: state bytes a weight": words,
            }
    return Measurement(numbers, tuple(_curves(numbers, size.batches)))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    first = measurements[0].numbers
    batches = sorted({int(key.split(",")[0].split()[1]) for key in first})

    def values(batch: int, arm: str) -> list[float]:
        return [100 * m.numbers[f"batch {batch}, {arm}: test accuracy"] for m in measurements]

    gains = {batch: difference(values(batch, "Lion"), values(batch, "AdamW")) for batch in batches}
    small, large = batches[0], batches[-1]
    growth = difference(
        [a - b for a, b in zip(values(large, "Lion"), values(large, "AdamW"), strict=True)],
        [a - b for a, b in zip(values(small, "Lion"), values(small, "AdamW"), strict=True)],
    )
    means = "; ".join(
        f"batch {batch}: {_mean(values(batch, 'Lion')):.2f}% and {_mean(values(batch, 'AdamW')):.2f}%"
        for batch in batches
    )
    state = [first[f"batch {large}, {arm}: state bytes a weight"] for arm in ARMS]
    because = (
        f"Mean test accuracy of Lion and AdamW: {means}. Lion minus AdamW at batch {large}: {_points(gains[large])}; that minus "
        f"the same at batch {small}: {_points(growth)}. State: {state[1]:.0f} bytes a weight for Lion, {state[0]:.0f} for AdamW."
    )
    if gains[large].above and growth.above:
        return Verdict("reproduced", because)
    if gains[large].above:
        return Verdict("partly", f"{because} Likely reason: Lion's gain doesn't depend on the batch size here.")
    if growth.above:
        likely = "Lion loses at small batches, where its steps are noisy, and only catches up at large ones"
        return Verdict("partly", f"{because} Likely reason: {likely}.")
    if gains[large].below:
        likely = "with few steps to go, AdamW's smaller steps where gradients agree less end nearer to a good place"
    else:
        likely = (
            "a small network on few images, tuned alike, ends as well with both; the paper's gains are of large models"
        )
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _points(found: Difference) -> str:
    return f"{found.mean:+.2f} points ({found.low:+.2f} to {found.high:+.2f})"


def _tuned(
    size: Size, batch: int, epochs: int, seeds: Sequence[int]
) -> tuple[list[Setting], dict[str, list[list[float]]]]:
    """The best setting of each arm, and for each arm rows of (rate, decay, validation error, validation loss)."""
    known: dict[Setting, tuple[float, float]] = {}
    new = {arm: list(RATES[arm][: size.rates]) for arm in ARMS}
    for _ in range(1 + (WIDEN if size.rates > 2 else 0)):
        settings = [Setting(arm, e, decay) for arm in ARMS for e in new[arm] for decay in DECAYS[arm]]
        known |= _scores(settings, size, batch, epochs, seeds)
        best = [min((s for s in known if s.arm == arm), key=known.__getitem__) for arm in ARMS]
        edges = {arm: sorted({s.exponent for s in known if s.arm == arm}) for arm in ARMS}
        if all(edges[s.arm][0] < s.exponent < edges[s.arm][-1] for s in best):
            break
        new = {s.arm: [_beyond(s.exponent, edges[s.arm])] for s in best}
    trials = {arm: [[s.rate, s.decay, e, min(v, 1e6)] for s, (e, v) in known.items() if s.arm == arm] for arm in ARMS}
    return best, trials


def _beyond(best: float, exponents: Sequence[float]) -> float:
    """One point more, beyond the end of a grid that is nearer to its best point."""
    low, high = exponents[0], exponents[-1]
    return low - SPACING if best - low < high - best else high + SPACING


def _scores(
    settings: Sequence[Setting], size: Size, batch: int, epochs: int, seeds: Sequence[int]
) -> dict[Setting, tuple[float, float]]:
    """Validation error and loss of settings, means over seeds."""
    sums = [(0.0, 0.0)] * len(settings)
    for seed in seeds:
        nets, _ = _train(settings, seed, batch, epochs, *_data("train", size.examples))
        found = zip(*nets.measured(*_data("validation", None)), strict=True)
        sums = [
            (e + (1 - a) / len(seeds), v + loss / len(seeds)) for (e, v), (a, loss) in zip(sums, found, strict=True)
        ]
    return dict(zip(settings, sums, strict=True))


def _train(
    settings: Sequence[Setting], seed: int, batch: int, epochs: int, inputs: Tensor, labels: Tensor
) -> tuple[SideBySide, list[float]]:
    """Networks trained with the settings, and the bytes of state a weight of each; the last batch of an epoch is smaller."""
    draws = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(m, n, generator=draws) * (2 / m) ** 0.5, torch.zeros(n)) for m, n in itertools.pairwise(WIDTHS)
    ]
    nets = SideBySide(layers, len(settings))
    groups: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for place, s in enumerate(settings):
        groups[s.arm].append({"params": [nets.param(place)], "lr": s.rate, "weight_decay": s.decay, "peak": s.rate})
    optimizers: dict[str, torch.optim.Optimizer] = {"AdamW": AdamW(groups["AdamW"]), "Lion": Lion(groups["Lion"])}
    steps, step = epochs * -(-len(inputs) // batch), 0
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=draws).split(batch):
            nets.gradients(inputs[rows], labels[rows])
            for optimizer in optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor(step / steps, 1 / steps)
                optimizer.step()
            step += 1
    return nets, [_state_bytes(optimizers[s.arm]) for s in settings]


def _state_bytes(optimizer: torch.optim.Optimizer) -> float:
    weights = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    return optimizer_state_bytes(optimizer) / weights


@cache
def _data(cut: str, examples: int | None) -> tuple[Tensor, Tensor]:
    """Images at half their resolution, flattened, and labels; "all" is all that may be trained on in the end."""
    if cut == "all":
        parts = [_data("train", examples), _data("validation", examples)]
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])
    images, labels = digits()[cut]  # type: ignore[index]
    return F.avg_pool2d(images[:examples], 2).flatten(1), labels[:examples]


def _curves(numbers: Mapping[str, float], batches: Sequence[int]) -> list[Curve]:
    x = tuple(map(float, batches))

    def row(arm: str, what: str, scale: float = 1.0) -> tuple[float, ...]:
        return tuple(scale * numbers[f"batch {batch}, {arm}: {what}"] for batch in batches)

    accuracy = {arm: row(arm, "test accuracy", 100.0) for arm in ARMS}
    curves = [Curve("accuracy", arm, x, accuracy[arm]) for arm in ARMS]
    gain = tuple(a - b for a, b in zip(accuracy["Lion"], accuracy["AdamW"], strict=True))
    curves += [Curve("gain", "measured", x, gain), Curve("gain", "no difference", x, (0.0,) * len(x), "theory")]
    curves += [Curve("loss", arm, x, row(arm, "training loss")) for arm in ARMS]
    return [*curves, *(Curve("rate", arm, x, row(arm, "learning rate")) for arm in ARMS)]
