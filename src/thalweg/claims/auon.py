"""AuON, without a matrix product, does as well as AdamW, and its hybrid as well as Muon.

The claim of arXiv:2509.24320, on real digits and on a language model of real text, for the released code, the paper's first version
and the hybrid with one and five Newton-Schulz steps; with the control that decides what the hyperbolic cosine is for: gamma = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.digit_classifier import digits
from thalweg.claims.engine.language_model import Size, best_rate, factor, train
from thalweg.claims.engine.matrix_arms import adamw
from thalweg.claims.engine.paired import difference
from thalweg.optim import AuON, HybridAuON, Muon, muon_groups

RULE = """\
Digits: a network 784-128-128-128-10, hidden matrices by the rule under test, the rest by AdamW at 2e-3. Language model: 2 blocks of
width 32, the rest by AdamW at its own best rate. Each rule's learning rate is the best of 3 on another seed, for either task; a best
rate at a grid's edge widens the grid, as the forms' rates differ by orders of magnitude. Means over fresh seeds.
A form is comparable to another rule if its test accuracy is lower by at most 0.5 points and its validation loss on the language model
at most 1.02 times as high.
Reproduced: AuON (as released, or the paper's first version) is comparable to AdamW, and the hybrid (1 or 5 steps) to Muon.
Partly: one of the two. Not reproduced: neither.
Control: AuON with gamma = 0, which is momentum (released form) or normalized momentum (first version), same seeds and rates. The
cosine makes a difference if in one of the forms, on one of the tasks, final losses differ by 0.001 or more in the mean and the 95%
interval of the differences excludes 0; otherwise what AuON does is explained by the control. Time is not judged: Newton-Schulz is
cheap on a machine with matrix units."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=4), "cpu": Scale(seeds=(11, 12, 13), seconds=220)}

PANELS = (
    Panel("digits", "Digits: training loss", "step", "cross-entropy", log="y"),
    Panel("language", "Language model: validation loss", "step", "nats per byte"),
)

RELEASED, FIRST = "AuON, released", "AuON, first version"
HYBRIDS = {"hybrid, 1 step": 1, "hybrid, 5 steps": 5}
TUNED = ("AdamW", "Muon", RELEASED, FIRST, *HYBRIDS)
CONTROLS = {f"{arm}, gamma 0": arm for arm in (RELEASED, FIRST)}
TASKS = ("digits", "language")
MIDDLES = {
    "digits": {"AdamW": -2.5, "Muon": -1.7, RELEASED: 0.0, FIRST: -0.7, "hybrid, 1 step": -1.0, "hybrid, 5 steps": -1.7},
    "language": {"AdamW": -2.2, "Muon": -1.7, RELEASED: 1.0, FIRST: -0.7, "hybrid, 1 step": -1.0, "hybrid, 5 steps": -1.7},
}  # fmt: skip
"""Middle exponents of ten of the learning rates' grids."""
TUNING_SEED, WIDTH, BATCH, REST = 1000, 128, 64, 2e-3
Rates = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Plan:
    """Sizes of both tasks, and how much is tuned."""

    digit_steps: int
    language: Size
    points: int
    widen: int


PLANS = {
    "smoke": Plan(6, Size(steps=4, width=16, context=16, evaluations=2, valid_windows=8), points=1, widen=0),
    "cpu": Plan(300, Size(steps=300, width=32, context=32, evaluations=10, valid_windows=256), points=3, widen=5),
}


def choose(scale: str, *, report: Report) -> dict[str, dict[str, float]]:
    """Learning rates by task and arm, AdamW's first: the language model's rest takes it."""
    plan = PLANS[scale]
    chosen: dict[str, dict[str, float]] = {task: {} for task in TASKS}
    work = [(task, arm) for task in TASKS for arm in TUNED]
    for place, (task, arm) in enumerate(work):
        report(place / len(work), f"{task}: choosing the learning rate of {arm}")

        def score(rate: float, task: str = task, arm: str = arm) -> float:
            rates = {**chosen, task: {**chosen[task], arm: rate}}
            if task == "digits":
                return _digits(arm, rates, TUNING_SEED, plan.digit_steps).validation_loss
            return train(_maker(task, arm, rates), TUNING_SEED, plan.language).final

        middle = MIDDLES[task][arm]
        grid = tuple(middle + 0.5 * k for k in (-1, 0, 1)) if plan.points > 1 else (middle,)
        chosen[task][arm] = best_rate(score, grid, plan.widen)
    return chosen


def run(scale: str, seed: int, *, report: Report, chosen: Rates) -> Measurement:
    """All arms on both tasks, each from one start and over the same data."""
    plan = PLANS[scale]
    numbers: dict[str, float] = {}
    curves: list[Curve] = []
    weights: dict[str, Tensor] = {}
    arms = (*TUNED, *CONTROLS)
    for place, arm in enumerate(arms):
        role: Role = "control" if arm in CONTROLS else "measured"
        report(place / len(arms), arm)
        found = _digits(arm, chosen, seed, plan.digit_steps)
        numbers[f"{arm}: test accuracy"] = found.accuracy
        numbers[f"{arm}: training loss on digits"] = found.losses[-1]
        weights[arm] = found.weights
        steps = tuple(float(BLOCK * (k + 1)) for k in range(len(found.losses)))
        curves.append(Curve("digits", arm, steps, found.losses, role))
        course = train(_maker("language", arm, chosen), seed, plan.language)
        numbers[f"{arm}: validation loss of the language model"] = course.final
        curves.append(Curve("language", arm, course.steps, course.losses, role))
    for control, arm in CONTROLS.items():
        apart = (weights[arm] - weights[control]).norm() / weights[control].norm()
        numbers[f"{arm}: distance of its weights from gamma 0, relative"] = min(apart.item(), 1e9)
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""

    def values(arm: str, what: str) -> list[float]:
        return [m.numbers[f"{arm}: {what}"] for m in measurements]

    accuracy = {arm: _mean(values(arm, "test accuracy")) for arm in TUNED}
    loss = {arm: _mean(values(arm, "validation loss of the language model")) for arm in TUNED}

    def comparable(arm: str, other: str) -> bool:
        return accuracy[arm] >= accuracy[other] - 0.005 and loss[arm] <= 1.02 * loss[other]

    plain = [arm for arm in (RELEASED, FIRST) if comparable(arm, "AdamW")]
    hybrid = [arm for arm in HYBRIDS if comparable(arm, "Muon")]
    gaps = {
        (arm, what): difference(values(arm, what), values(control, what))
        for control, arm in CONTROLS.items()
        for what in ("training loss on digits", "validation loss of the language model")
    }
    matters = [
        f"{arm} ({what})" for (arm, what), gap in gaps.items() if (gap.above or gap.below) and abs(gap.mean) >= 0.001
    ]
    apart = ", ".join(f"{_mean(values(arm, APART)):.0e}" for arm in (RELEASED, FIRST))
    because = (
        f"Test accuracy on digits and nats per byte of the language model: {_listed(accuracy, loss)}. Comparable to AdamW: "
        f"{' and '.join(plain) or 'neither form of AuON'}; to Muon: {' and '.join(hybrid) or 'neither hybrid'}. Weights end at a "
        f"relative distance of {apart} (released, first version) from those without the cosine, which "
        f"{'makes a difference in ' + ', '.join(matters) if matters else 'makes no difference that shows in any loss'}."
    )
    explained = None if matters else "momentum, plain or divided by its norm, without the hyperbolic cosine"
    if plain and hybrid:
        return Verdict("reproduced", because, explained)
    if plain:
        likely = "five steps are Muon without its factor of the shape, and fewer orthogonalize too little"
        return Verdict("partly", f"{because} Likely reason: {likely}.", explained)
    if hybrid:
        likely = "one number for a whole matrix doesn't adapt to anything"
        return Verdict("partly", f"{because} Likely reason: {likely}.", "Newton-Schulz, that is Muon")
    likely = "one number for a whole matrix doesn't adapt to anything, and changes nothing in what was orthogonalized"
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")


APART = "distance of its weights from gamma 0, relative"


def _listed(accuracy: Mapping[str, float], loss: Mapping[str, float]) -> str:
    return "; ".join(f"{arm} {100 * accuracy[arm]:.1f}% and {loss[arm]:.3f}" for arm in TUNED)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _maker(task: str, arm: str, rates: Rates) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """The optimizer of an arm: its rule for hidden matrices, AdamW for the rest."""
    own = rates[task][CONTROLS.get(arm, arm)]
    rest = REST if task == "digits" else rates[task]["AdamW"]
    others: dict[str, Any] = {"rest_lr": rest, "rest_betas": (0.9, 0.95)}

    def make(model: nn.Module) -> torch.optim.Optimizer:
        if arm == "AdamW":
            return adamw(model, own, rest, muon_groups)
        if arm == "Muon":
            return Muon(model, lr=own, ns_dtype="float32", **others)
        if arm in HYBRIDS:
            return HybridAuON(model, lr=own, ns_steps=HYBRIDS[arm], ns_dtype="float32", **others)
        gamma = 0.0 if arm in CONTROLS else None
        return AuON(model, lr=own, normalize=CONTROLS.get(arm, arm) == FIRST, gamma=gamma, **others)

    return make


BLOCK = 10
"""Steps whose training losses are averaged."""


@dataclass(frozen=True)
class _Digits:
    """A training on digits."""

    losses: tuple[float, ...]
    validation_loss: float
    accuracy: float
    weights: Tensor


def _digits(arm: str, rates: Rates, seed: int, steps: int) -> _Digits:
    """Train with batches of 64; a training that broke down has loss 10 and no right answer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(784, WIDTH), nn.ReLU()]
    for _ in range(2):
        layers += [nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    optimizer = _maker("digits", arm, rates)(model)
    base = [float(group["lr"]) for group in optimizer.param_groups]
    inputs, targets = digits()["train"]
    draws = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor(step, steps)
        rows = torch.randint(len(inputs), (BATCH,), generator=draws)
        loss = F.cross_entropy(model(inputs[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(_bounded(loss))
    with torch.no_grad():
        validation = _bounded(F.cross_entropy(model(digits()["validation"][0]), digits()["validation"][1]))
        outputs = model(digits()["test"][0])
        right = (outputs.argmax(1) == digits()["test"][1]) & outputs.isfinite().all(1)
        weights = torch.cat([p.detach().flatten() for p in model.parameters() if p.ndim == 2])
    blocks = torch.tensor(losses).split(BLOCK)
    means = tuple(block.mean().item() for block in blocks)
    return _Digits(means, validation, right.double().mean().item(), weights.nan_to_num(1e6, 1e6, -1e6))


def _bounded(loss: Tensor) -> float:
    value = loss.item()
    return min(value, 10.0) if math.isfinite(value) else 10.0
