"""AdaBelief trains a network as fast as Adam and generalizes as well as SGD with momentum.

The claim of arXiv:2010.07468, on a small convolutional network for real digits, with a control for the floor that eps puts
under AdaBelief's denominator; and, shown only, the paper's four functions of two variables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.digit_classifier import Trained, train
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.claims.engine.paired import difference
from thalweg.optim import SGD, AdaBelief, AdamW, Chained, adam_direction, add_decayed_weights, momentum

RULE = """\
Test accuracy of a small convolutional network on digits, fresh seeds, differences seed by seed; "above" means that their
whole 95% interval is. SGD with momentum has its learning rate chosen among 9, Adam, AdamW and AdaBelief among 3 rates times
3 floors of the denominator, all on other seeds and another cut of the data; a best rate at a grid's edge widens the grid.
Reproduced: AdaBelief is above the better of Adam and AdamW, and at most one standard error below SGD with momentum.
Partly: AdaBelief is above Adam, but that doesn't hold; or SGD with momentum is above Adam, which is the paper's premise, and
AdaBelief is at most one standard error below SGD.
Not reproduced: otherwise, also where no difference is shown.
Control: AdamW with the floor that was chosen for AdaBelief (the root of 1000 eps, which is how its eps adds up) and the best
rate for it. Where the claim holds in part or whole and AdaBelief isn't above this control, the floor explains the gain.
The four functions and the speed in the first epochs are shown and decide nothing."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=3), "cpu": Scale(seeds=(11, 12, 13, 14, 15), seconds=200)}

PANELS = (
    Panel("loss", "Digits: training loss", "epoch", "mean training loss", log="y"),
    Panel("accuracy", "Digits: test accuracy", "epoch", "right answers (%)"),
    Panel("floor", "Chosen on other seeds: error by the denominator's floor", "floor", "validation error (%)", log="x"),
    Panel(
        "functions",
        "Functions of two variables, rate 0.001",
        "function (two of absolute values, Rosenbrock, Beale)",
        "steps until it stays below 0.01",
        log="y",
    ),
)

EPS = (1e-16, 1e-12, 1e-8)
ARMS: dict[str, Role] = {"SGD": "measured", "Adam": "measured", "AdamW": "measured", "AdaBelief": "measured",
                         "AdamW, same floor": "control"}  # fmt: skip
TUNING_SEED = 1000


@dataclass(frozen=True)
class Size:
    epochs: int
    examples: int | None
    every_eps: tuple[float, ...]
    cap: int
    """Most steps on the functions."""


SIZES = {"smoke": Size(1, 256, EPS[:1], 40), "cpu": Size(8, None, EPS, 8_000)}
MIDDLES = {"SGD": -1.25, "Adam": -3.0, "AdamW": -3.0, "AdaBelief": -3.0}


def floor_of(eps: float) -> float:
    """What AdaBelief's denominator doesn't fall below: eps adds up to 1000 eps in the state, for betas of 0.999."""
    return math.sqrt(1000 * eps)


def maker(arm: str, lr: float, eps: float) -> Callable[[nn.Module | list[nn.Parameter]], torch.optim.Optimizer]:
    """The arm's optimizer; ``eps`` is AdaBelief's, the others get the floor that it makes."""
    floor, l2 = floor_of(eps), add_decayed_weights(weight_decay=1e-4)
    makers: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "SGD": lambda model: Chained(model, l2 >> momentum(momentum=0.9), lr=lr),
        "Adam": lambda model: Chained(model, l2 >> adam_direction(eps=floor), lr=lr),
        "AdamW": lambda model: AdamW(model, lr=lr, eps=floor, weight_decay=1e-2),
        "AdaBelief": lambda model: AdaBelief(model, lr=lr, eps=eps, weight_decay=1e-2),
    }
    return makers[arm]


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """Learning rate and floor of every arm by the validation cut, and the functions, which have no chance in them."""
    size = SIZES[scale]
    chosen: dict[str, Any] = {"settings": {}, "errors": {}}
    for place, arm in enumerate(MIDDLES):
        report(place / 5, f"choosing the learning rate of {arm}")
        lr, eps, errors = _tuned(arm, size, _grid(arm, scale))
        chosen["settings"][arm] = [lr, eps]
        chosen["errors"][arm] = errors
        if arm == "AdamW":
            adamw = errors
    lr, eps = chosen["settings"]["AdaBelief"]
    best = min(adamw[repr(eps)], key=lambda row: row[1:])
    chosen["settings"]["AdamW, same floor"] = [best[0], eps]
    report(0.8, "functions of two variables")
    return {**chosen, "functions": {arm: _functions(arm, size.cap) for arm in ("SGD", "Adam", "AdaBelief")}}


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """Every arm with its chosen setting."""
    size = SIZES[scale]
    numbers: dict[str, float] = {}
    curves = _shown(chosen)
    for place, (arm, role) in enumerate(ARMS.items()):
        report(place / len(ARMS), arm)
        lr, eps = chosen["settings"][arm]
        found = train(maker(arm.split(",")[0], lr, eps), seed, size.epochs, examples=size.examples)
        early, epochs = min(3, size.epochs), tuple(map(float, range(1, size.epochs + 1)))
        numbers[f"{arm}: test accuracy"] = found.accuracy["test"]
        numbers[f"{arm}: training loss of epoch {early}"] = found.losses[early - 1]
        numbers |= {f"{arm}: learning rate": lr, f"{arm}: floor": floor_of(eps)}
        curves.append(Curve("loss", arm, epochs, found.losses, role))
        curves.append(Curve("accuracy", arm, epochs, tuple(100 * a for a in found.test_accuracies), role))
    for arm, row in chosen["functions"].items():
        for name, steps in row.items():
            numbers |= {f"{name}, {arm}: steps at rate 0.001": steps[0], f"{name}, {arm}: steps at best rate": steps[1]}
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    accuracy = {arm: [m.numbers[f"{arm}: test accuracy"] for m in measurements] for arm in ARMS}
    mean = {arm: 100 * sum(values) / len(values) for arm, values in accuracy.items()}
    mine = accuracy["AdaBelief"]
    better = max("Adam", "AdamW", key=lambda arm: mean[arm])
    over_adam, over_better = difference(mine, accuracy["Adam"]), difference(mine, accuracy[better])
    over_sgd, premise = difference(mine, accuracy["SGD"]), difference(accuracy["SGD"], accuracy["Adam"])
    over_control = difference(mine, accuracy["AdamW, same floor"])
    as_sgd = over_sgd.mean >= -over_sgd.error
    because = (
        f"Mean test accuracy: {', '.join(f'{arm} {mean[arm]:.2f}%' for arm in ARMS)}. AdaBelief minus {better} (the better "
        f"of Adam and AdamW): {_points(over_better)}; minus Adam: {_points(over_adam)}; minus SGD: {100 * over_sgd.mean:+.2f} "
        f"points with a standard error of {100 * over_sgd.error:.2f}; SGD minus Adam: {_points(premise)}."
    )
    if over_better.above and as_sgd:
        return Verdict("reproduced", because, _explanation(over_control.above))
    if over_adam.above or (premise.above and as_sgd):
        reason = (
            "the gain is over the weaker baseline only"
            if over_adam.above
            else "it is as good as SGD, not better than Adam"
        )
        return Verdict("partly", f"{because} Likely reason: {reason}.", _explanation(over_control.above))
    shown = any(d.above or d.below for d in (over_adam, over_better, over_sgd, premise))
    reason = (
        "tuned alike, they generalize alike here"
        if shown
        else "no difference is shown: the digits are too easy to tell them apart"
    )
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {reason}.")


def _explanation(beats_control: bool) -> str | None:
    return None if beats_control else "the floor that eps puts under the denominator: AdamW gains as much from it"


def _points(found: Any) -> str:
    return f"{100 * found.mean:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def _grid(arm: str, scale: str) -> list[float]:
    """Exponents of ten: nine for SGD, three for rules that also choose a floor."""
    if scale == "smoke":
        return [MIDDLES[arm], MIDDLES[arm] + 0.5]
    if arm == "SGD":
        return [MIDDLES[arm] + 0.3125 * k for k in range(-4, 5)]
    return [MIDDLES[arm] + 0.5 * k for k in (-1, 0, 1)]


def _tuned(arm: str, size: Size, grid: list[float]) -> tuple[float, float, dict[str, list[list[float]]]]:
    """Best learning rate and eps, and for every eps rows of (rate, validation error, validation loss)."""
    errors: dict[str, list[list[float]]] = {
        repr(eps): [] for eps in (size.every_eps if arm != "SGD" else size.every_eps[:1])
    }
    best: dict[float, tuple[tuple[float, float], float]] = {}

    def scores(exponents: list[float]) -> list[tuple[float, float]]:
        for exponent in exponents:
            found: list[tuple[tuple[float, float], float]] = []
            for eps in map(float, errors):
                trained: Trained = train(
                    maker(arm, 10**exponent, eps), TUNING_SEED, size.epochs, examples=size.examples
                )
                errors[repr(eps)].append([10**exponent, *_writable(trained.score)])
                found.append((trained.score, eps))
            best[exponent] = min(found)
        return [best[exponent][0] for exponent in exponents]

    exponent = best_on_log_grid(scores, grid, widen=3 if len(grid) > 2 else 0)
    return 10**exponent, best[exponent][1], errors


def _writable(score: tuple[float, float]) -> tuple[float, float]:
    return score[0], min(score[1], 1e6)


def _functions(arm: str, cap: int) -> dict[str, list[float]]:
    """Steps at rate 0.001, and at the best of three, until a function stays below 0.01 for 100 steps, by function."""
    rates = (1e-3, 1e-2, 1e-1)
    starts = torch.tensor([[3.0, 2.0], [3.0, 2.0], [-1.5, 2.0], [1.0, 1.0]], dtype=torch.float64)
    params = [nn.Parameter(starts.clone()) for _ in rates]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, rates, strict=True)]
    optimizer = {
        "SGD": lambda: SGD(groups, momentum=0.9),
        "Adam": lambda: AdamW(groups, weight_decay=0.0),
        "AdaBelief": lambda: AdaBelief(groups),
    }[arm]()
    run_length, arrived = torch.zeros(len(rates), 4), torch.full((len(rates), 4), math.inf)
    for step in range(1, cap + 1):
        values = _values(torch.stack(list[Tensor](params)))
        optimizer.zero_grad()
        values.sum().backward()
        optimizer.step()
        run_length = torch.where(values.detach() < 0.01, run_length + 1, 0)
        arrived = torch.where((run_length >= 100) & arrived.isinf(), step - 100.0, arrived)
        if arrived.isfinite().all():
            break
    return {
        name: [min(arrived[0, i].item(), cap), min(arrived[:, i].min().item(), cap)]
        for i, name in enumerate(("|x| + |y|", "|x + y| + |x - y| / 10", "Rosenbrock", "Beale"))
    }


def _values(points: Tensor) -> Tensor:
    """The four functions, each at its own points: ``(rates, 4, 2)`` to ``(rates, 4)``."""
    (x0, x1, x2, x3), (y0, y1, y2, y3) = points.permute(2, 1, 0).unbind()
    powers = torch.stack([y3, y3**2, y3**3])
    beale = (torch.tensor([[1.5], [2.25], [2.625]]) - x3 + x3 * powers).square().sum(0)
    rosenbrock = (1 - x2) ** 2 + 100 * (y2 - x2**2) ** 2
    return torch.stack([x0.abs() + y0.abs(), (x1 + y1).abs() + (x1 - y1).abs() / 10, rosenbrock, beale], 1)


def _shown(chosen: Mapping[str, Any]) -> list[Curve]:
    curves = []
    for arm in ("Adam", "AdamW", "AdaBelief"):
        best = {floor_of(float(eps)): 100 * min(row[1] for row in rows) for eps, rows in chosen["errors"][arm].items()}
        curves.append(Curve("floor", arm, tuple(best), tuple(best.values())))
    for arm, row in chosen["functions"].items():
        curves.append(Curve("functions", arm, (1.0, 2.0, 3.0, 4.0), tuple(steps[0] for steps in row.values())))
    return curves
