"""Noise on the gradient trains a deep network from a poor start, and does no harm from a good one.

The claim of arXiv:1511.06807 at the size of a desk: ten hidden layers, real digits, plain gradient descent, three starts; with
two controls that have as much noise, all of it at the start or evenly over the steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.digit_classifier import digits
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.claims.engine.paired import Difference, difference
from thalweg.claims.engine.side_by_side import SideBySide
from thalweg.optim import SGD, gradient_noise

RULE = """\
A network with 10 hidden layers of 50 ReLU units on real digits (14 x 14 pixels), gradient descent without momentum, batches of
64, from three starts: weights from N(0, 0.01) ("simple"), all zero, and He's. With and without noise on the gradient, of variance
eta / (1+t)^0.55, each has its settings chosen among 8 for every start, by 500 other images: without noise 4 learning rates with
and without clipping to norm 10; with noise the same 4 rates with eta of 0.01 and 0.3, clipped before the noise is added. A best
rate at an edge of its grid widens the grid. Then fresh restarts; "beats" means that the whole 95% interval of the differences in
test accuracy, restart by restart, is above 0.
A start is helped if noise beats its absence, and, for zero, if the best restart with noise also has more than 50%.
He's start is hurt if the mean accuracy with noise is more than 1 point below that without.
Reproduced: simple and zero are helped, and He isn't hurt. Partly: one of the two is helped, or both and He is hurt.
Not reproduced: neither is helped.
Control: the same settings without noise on the gradient, but with noise once on the weights, of the total variance that the
gradient noise would add, lr^2 times the sum of all variances. If noise on the gradient beats it from no start that was helped, a
random start explains the gain. The other control, constant noise with the same sum, is shown and decides nothing."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=4), "cpu": Scale(seeds=(11, 12, 13, 14, 15), seconds=200)}

PANELS = (
    Panel("accuracy", "Digits, at the chosen settings", "start (simple, zero, He)", "right answers (%)"),
    Panel("zero", "From zero: spread of the hidden weights", "step", "standard deviation"),
    Panel("simple", "From N(0, 0.01): spread of the hidden weights", "step", "standard deviation"),
)

STARTS = ("simple", "zero", "He")
ARMS: dict[str, Role] = {"without noise": "measured", "with noise": "measured", "noise at the start": "control",
                         "constant noise": "control"}  # fmt: skip
EXPONENTS, ETAS, CLIPS = (-1.2, -0.9, -0.6, -0.3), (0.01, 0.3), (math.inf, 10.0)
GAMMA, BATCH, WIDTH, TUNING_SEED, EVERY = 0.55, 64, 50, 1000, 44


@dataclass(frozen=True)
class Size:
    depth: int
    epochs: int
    examples: int | None
    rates: int


SIZES = {"smoke": Size(3, 1, 256, 2), "cpu": Size(10, 16, None, 4)}


@dataclass(frozen=True)
class Setting:
    """How one network is trained; a gradient noise of variance ``eta / (1+t)^gamma``, and noise of ``start_noise`` on its start."""

    lr: float
    eta: float = 0.0
    gamma: float = GAMMA
    clip: float = math.inf
    start_noise: float = 0.0


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """Learning rate and noise, or clipping, for every start."""
    size = SIZES[scale]
    chosen: dict[str, Any] = {}
    for place, (start, noisy) in enumerate(itertools.product(STARTS, (False, True))):
        report(place / 6, f"choosing settings of {start}, {'with' if noisy else 'without'} noise")
        best: dict[float, tuple[tuple[float, float], float, float]] = {}

        def scores(
            exponents: list[float], start: str = start, noisy: bool = noisy, best: dict[float, Any] = best
        ) -> list[tuple[float, float]]:
            options = [(eta, 10.0) for eta in ETAS] if noisy else [(0.0, clip) for clip in CLIPS]
            settings = [Setting(10**e, eta, clip=clip) for e in exponents for eta, clip in options]
            found = _train(start, settings, TUNING_SEED, size).score(_data("validation", None))
            for row, e in enumerate(exponents):
                best[e] = min((found[2 * row + k], *option) for k, option in enumerate(options))
            return [best[e][0] for e in exponents]

        exponent = best_on_log_grid(scores, EXPONENTS[: size.rates], widen=3 if size.rates > 2 else 0)
        (error, _), eta, clip = best[exponent]
        chosen[f"{start}, {'with' if noisy else 'without'} noise"] = {
            "lr": 10**exponent, "eta": eta, "clip": min(clip, 1e9), "validation error": error,
        }  # fmt: skip
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """Every start and arm with fresh weights, noise and order of the data."""
    size = SIZES[scale]
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for place, start in enumerate(STARTS):
        report(place / len(STARTS), f"restart from {start}")
        settings = _arms(start, chosen, _steps(size))
        trained = _train(start, settings, seed, size)
        accuracies, losses = trained.nets.measured(*_data("test", None))
        for row, (arm, setting) in enumerate(zip(ARMS, settings, strict=True)):
            found[arm].append(100 * accuracies[row])
            about = f"{start}, {arm}"
            numbers |= {f"{about}: test accuracy": accuracies[row], f"{about}: test loss": losses[row]}
            numbers |= {f"{about}: learning rate": setting.lr, f"{about}: eta": setting.eta}
            numbers |= {f"{about}: start noise": setting.start_noise, f"{about}: clipped to": setting.clip}
            if start != "He":
                x = tuple(float(EVERY * k) for k in range(len(trained.spreads)))
                curves.append(Curve(start, arm, x, tuple(row_[row] for row_ in trained.spreads), ARMS[arm]))
    x = tuple(float(k + 1) for k in range(len(STARTS)))
    curves += [Curve("accuracy", arm, x, tuple(values), ARMS[arm]) for arm, values in found.items()]
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    accuracy = {
        (start, arm): [100 * m.numbers[f"{start}, {arm}: test accuracy"] for m in measurements]
        for start in STARTS
        for arm in ARMS
    }
    gains = {start: difference(accuracy[start, "with noise"], accuracy[start, "without noise"]) for start in STARTS}
    best_from_zero = max(accuracy["zero", "with noise"])
    helped = [s for s in ("simple", "zero") if gains[s].above and (s == "simple" or best_from_zero > 50)]
    hurt = gains["He"].mean < -1
    over = {s: difference(accuracy[s, "with noise"], accuracy[s, "noise at the start"]) for s in ("simple", "zero")}
    rows = "; ".join(
        f"{start} {', '.join(f'{_mean(accuracy[start, arm]):.1f}% {arm}' for arm in ARMS)}" for start in STARTS
    )
    alive = ", ".join(
        f"{start} {sum(a > 80 for a in accuracy[start, 'with noise'])} of {len(measurements)} with and "
        f"{sum(a > 80 for a in accuracy[start, 'without noise'])} without"
        for start in STARTS
    )
    because = (
        f"Mean test accuracy: {rows}. Noise minus none: simple {_points(gains['simple'])}, zero {_points(gains['zero'])} (best "
        f"restart {best_from_zero:.1f}%), He {gains['He'].mean:+.2f} points (not below -1). Noise on the gradient minus noise at the "
        f"start: simple {_points(over['simple'])}, zero {_points(over['zero'])}. Restarts above 80%: {alive}. He's start without "
        f"noise has {_mean(accuracy['He', 'without noise']):.1f}%."
    )
    explained = None
    if helped and not any(over[s].above for s in helped):
        explained = "a random start: as much noise once on the weights does as well"
    if len(helped) == 2 and not hurt:
        return Verdict("reproduced", because, explained)
    if helped:
        likely = "the noise is too large for a start that needs none" if hurt and len(helped) == 2 else _why_one(helped)
        return Verdict("partly", f"{because} Likely reason: {likely}.", explained)
    likely = "restarts differ more than noise changes, or the noise is too small to bring a dead network to life"
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")


def _why_one(helped: Sequence[str]) -> str:
    if helped == ["zero"]:
        return "from weights that are random already a tuned learning rate leaves little to gain"
    return "noise brings weights away from zero too slowly in so few steps"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _points(found: Difference) -> str:
    return f"{found.mean:+.2f} points ({found.low:+.2f} to {found.high:+.2f})"


def _arms(start: str, chosen: Mapping[str, Any], steps: int) -> list[Setting]:
    """Settings of the four arms; the controls have those with noise, and the same sum of variances."""
    plain, noisy = (chosen[f"{start}, {which} noise"] for which in ("without", "with"))
    lr, eta, clip = noisy["lr"], noisy["eta"], noisy["clip"]
    total = sum(eta / (1 + t) ** GAMMA for t in range(steps))
    return [
        Setting(plain["lr"], clip=plain["clip"]),
        Setting(lr, eta, clip=clip),
        Setting(lr, clip=clip, start_noise=lr * math.sqrt(total)),
        Setting(lr, total / steps, gamma=0.0, clip=clip),
    ]


@dataclass(frozen=True)
class _Trained:
    """Networks, and the standard deviation of their hidden weights along the way."""

    nets: SideBySide
    spreads: list[list[float]]

    def score(self, data: tuple[Tensor, Tensor]) -> list[tuple[float, float]]:
        """Error and loss of each network."""
        return [(1 - a, loss) for a, loss in zip(*self.nets.measured(*data), strict=True)]


def _train(start: str, settings: Sequence[Setting], seed: int, size: Size) -> _Trained:
    draws = torch.Generator().manual_seed(seed)
    widths = (196, *[WIDTH] * size.depth, 10)
    deviations = {"simple": lambda m: 0.1, "zero": lambda m: 0.0, "He": lambda m: math.sqrt(2 / m)}
    layers = [
        (torch.randn(m, n, generator=draws) * deviations[start](m), torch.zeros(n))
        for m, n in itertools.pairwise(widths)
    ]
    nets = SideBySide(layers, len(settings))
    plain, noisy = [], []
    for place, s in enumerate(settings):
        group = {"params": [nets.param(place)], "lr": s.lr}
        if s.start_noise:
            with torch.no_grad():
                p = group["params"][0]  # type: ignore[index]
                p.add_(s.start_noise * torch.randn(p.shape, generator=draws))
        if s.eta:
            noisy.append({**group, "noise_eta": s.eta, "noise_gamma": s.gamma})
        else:
            plain.append(group)
    optimizers = [SGD(plain, momentum=0.0)] if plain else []
    optimizers += [SGD(noisy, momentum=0.0, before=gradient_noise(seed=seed))] if noisy else []
    clips = torch.tensor([s.clip for s in settings])
    (inputs, labels), spreads, step = _data("train", size.examples), [_spread(nets)], 0
    for _ in range(size.epochs):
        for rows in torch.randperm(len(inputs), generator=draws).split(BATCH):
            nets.gradients(inputs[rows], labels[rows])
            nets.clip(clips)
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            if step % EVERY == 0:
                spreads.append(_spread(nets))
    return _Trained(nets, spreads)


def _steps(size: Size) -> int:
    return size.epochs * -(-len(_data("train", size.examples)[0]) // BATCH)


@torch.no_grad()
def _spread(nets: SideBySide) -> list[float]:
    """Standard deviation of the weights between hidden layers, for each network; a million where it broke down."""
    hidden = torch.cat([weight.flatten(1) for weight, _ in nets.layers()[1:-1]], 1)
    return torch.nan_to_num(hidden.std(1), nan=1e6, posinf=1e6).clamp(max=1e6).tolist()


@cache
def _data(cut: str, examples: int | None) -> tuple[Tensor, Tensor]:
    """Images at half their resolution, flattened, and labels."""
    images, labels = digits()[cut]  # type: ignore[index]
    return F.avg_pool2d(images[:examples], 2).flatten(1), labels[:examples]
