"""diffGrad classifies images better than Adam and its relatives, because it slows down where gradients stand still.

The claim of arXiv:1909.11015, on a small convolutional network for real digits, with the control that decides the mechanism:
the same run with the friction replaced by its own mean. Shown only: the paper's three functions of one variable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.claims.engine.contract import Curve, Measurement, Panel, Report, Role, Scale, Verdict
from thalweg.claims.engine.digit_classifier import Trained, train
from thalweg.claims.engine.log_grid import best_on_log_grid
from thalweg.claims.engine.paired import Difference, difference
from thalweg.optim import SGD, AdamW, DiffGrad

RULE = """\
Test accuracy of a small convolutional network on digits, fresh seeds, differences seed by seed; "above" means that their
whole 95% interval is. SGD with momentum, Adam, AMSGrad, RMSProp and diffGrad have their learning rates chosen among 6 each, on
another seed and another cut of the data; a best rate at a grid's edge widens the grid. In the control every step of diffGrad's
run has, for all weights, the mean friction of that very run: Adam with a smaller rate, so to say.
Reproduced: diffGrad is above Adam and above the control.
Partly: it is above one of the two. If that is Adam only, a constant friction explains the gain.
Not reproduced: neither.
The paper's gain is over Adam at the same learning rate; as the friction is at least a half, rates must be tuned to tell more.
The other optimizers and the three functions are shown and decide nothing."""

SCALES = {"smoke": Scale(seeds=(0,), seconds=3), "cpu": Scale(seeds=(11, 12, 13, 14, 15), seconds=200)}

PANELS = (
    Panel("accuracy", "Digits: test accuracy", "epoch", "right answers (%)"),
    Panel("friction", "Digits: diffGrad's friction", "step", "mean friction"),
    Panel("path", "First function: path from -1 (lowest at -0.3, trap at 0.2)", "step", "x"),
    Panel("share", "Three functions: starts that end in the lowest minimum", "function", "share of starts (%)"),
)

ARMS = ("SGD", "Adam", "AMSGrad", "RMSProp", "diffGrad")
CONTROL = "diffGrad, constant friction"
FUNCTION_ARMS: dict[str, tuple[str, float]] = {
    "Adam": ("Adam", 0.1), "diffGrad": ("diffGrad", 0.1), "Adam, half the rate": ("Adam", 0.05),
}  # fmt: skip
LOWEST = (-0.3, -0.643, 0.0)
TUNING_SEED, EVERY = 1000, 10


@dataclass(frozen=True)
class Size:
    epochs: int
    examples: int | None
    points: int
    starts: int
    function_steps: int


SIZES = {"smoke": Size(1, 256, 2, 5, 20), "cpu": Size(8, None, 6, 200, 300)}


def maker(arm: str, lr: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """The arm's optimizer."""
    makers: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
        "SGD": lambda model: SGD(model.parameters(), lr=lr, momentum=0.9),
        "Adam": lambda model: AdamW(model.parameters(), lr=lr, weight_decay=0.0),
        "AMSGrad": lambda model: torch.optim.Adam(model.parameters(), lr=lr, amsgrad=True),
        "RMSProp": lambda model: torch.optim.RMSprop(model.parameters(), lr=lr),
        "diffGrad": lambda model: DiffGrad(model.parameters(), lr=lr),
        # Without any weight on the gradient's change the friction is 1/2 everywhere.
        CONTROL: lambda model: DiffGrad(model.parameters(), lr=2 * lr, friction_scale=0.0),
    }
    return makers[arm]


def choose(scale: str, *, report: Report) -> dict[str, Any]:
    """The learning rate of every arm by the validation cut."""
    size, lrs = SIZES[scale], {}
    for place, arm in enumerate(ARMS):
        report(place / len(ARMS), f"choosing the learning rate of {arm}")

        def scores(exponents: list[float], arm: str = arm) -> list[tuple[float, float]]:
            return [_train(maker(arm, 10**e), TUNING_SEED, size).score for e in exponents]

        first = -2.5 if arm == "SGD" else -4.0
        grid = [first + 0.5 * k for k in range(size.points)]
        lrs[arm] = 10 ** best_on_log_grid(scores, grid, widen=3 if size.points > 2 else 0)
    return {"lr": lrs}


def run(scale: str, seed: int, *, report: Report, chosen: Mapping[str, Any]) -> Measurement:
    """Every arm at its chosen rate, the control at diffGrad's times the mean friction, and the functions."""
    size = SIZES[scale]
    numbers, curves = _functions(size.starts, size.function_steps, seed)
    frictions: list[float] = []
    lrs: dict[str, float] = dict(chosen["lr"])
    for place, arm in enumerate((*ARMS, CONTROL)):
        report((place + 1) / (len(ARMS) + 2), arm)
        if arm == CONTROL:
            lrs[arm] = lrs["diffGrad"] * sum(frictions) / len(frictions)
        found = _train(maker(arm, lrs[arm]), seed, size, frictions if arm == "diffGrad" else None)
        numbers |= {f"{arm}: test accuracy": found.accuracy["test"], f"{arm}: learning rate": lrs[arm]}
        role: Role = "control" if arm == CONTROL else "measured"
        epochs = tuple(map(float, range(1, size.epochs + 1)))
        curves.append(Curve("accuracy", arm, epochs, tuple(100 * a for a in found.test_accuracies), role))
    numbers["mean friction"] = sum(frictions) / len(frictions)
    steps = tuple(float(EVERY * k) for k in range(len(frictions)))
    curves.append(Curve("friction", "diffGrad", steps, tuple(frictions)))
    return Measurement(numbers, tuple(curves))


def judge(measurements: list[Measurement]) -> Verdict:
    """See :data:`RULE`."""
    accuracy = {arm: [m.numbers[f"{arm}: test accuracy"] for m in measurements] for arm in (*ARMS, CONTROL)}
    mean = {arm: 100 * sum(values) / len(values) for arm, values in accuracy.items()}
    adam = difference(accuracy["diffGrad"], accuracy["Adam"])
    control = difference(accuracy["diffGrad"], accuracy[CONTROL])
    friction = sum(m.numbers["mean friction"] for m in measurements) / len(measurements)
    because = (
        f"Mean test accuracy, each at its best rate: {', '.join(f'{arm} {value:.2f}%' for arm, value in mean.items())}. "
        f"diffGrad minus Adam: {_points(adam)}; minus itself with a constant friction of {friction:.3f}: {_points(control)}."
    )
    if adam.above and control.above:
        return Verdict("reproduced", because)
    if adam.above:
        word = "a constant friction, that is another learning rate"
        return Verdict("partly", f"{because} Likely reason: where gradients stand still makes no difference.", word)
    if control.above:
        return Verdict("partly", f"{because} Likely reason: the friction helps, but no more than Adam's own tuning.")
    likely = f"gradients change by little here, so that the friction is nearly constant at {friction:.2f}"
    return Verdict("not reproduced at this scale", f"{because} Likely reason: {likely}.")


def _points(found: Difference) -> str:
    return f"{100 * found.mean:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def _train(
    make: Callable[[nn.Module], torch.optim.Optimizer], seed: int, size: Size, frictions: list[float] | None = None
) -> Trained:
    """Train; ``frictions`` receives the mean friction of the first and then of every tenth step."""
    steps = 0

    def look(optimizer: torch.optim.Optimizer) -> None:
        nonlocal steps
        if frictions is not None and steps % EVERY == 0:
            assert isinstance(optimizer, DiffGrad)
            frictions.append(optimizer.friction_stats()[0]["mean"])
        steps += 1

    return train(make, seed, size.epochs, examples=size.examples, before_step=look)


def _functions(starts: int, steps: int, seed: int) -> tuple[dict[str, float], list[Curve]]:
    """Where steps lead from random starts and from -1, on three functions."""
    draws = torch.Generator().manual_seed(seed)
    first = torch.rand(3, starts, generator=draws, dtype=torch.float64) * 3 - 1.5
    first = torch.cat([torch.full((3, 1), -1.0, dtype=torch.float64), first], 1)
    numbers, curves = {}, []
    for label, (arm, lr) in FUNCTION_ARMS.items():
        x = nn.Parameter(first.clone())
        betas = (0.95, 0.999)
        optimizer = DiffGrad([x], lr, betas) if arm == "diffGrad" else AdamW([x], lr, betas, weight_decay=0.0)
        path = [-1.0]
        for _ in range(steps):
            optimizer.zero_grad()
            function_values(x).sum().backward()
            optimizer.step()
            path.append(x[0, 0].item())
        near = (x.detach() - torch.tensor(LOWEST, dtype=torch.float64)[:, None]).abs() < 0.1
        shares = near[:, 1:].double().mean(1).tolist()
        for k in range(3):
            numbers[f"function {k + 1}, {label}: share in the lowest minimum"] = shares[k]
            numbers[f"function {k + 1}, {label}: end from -1"] = x[k, 0].item()
        curves.append(Curve("path", label, tuple(map(float, range(steps + 1))), tuple(path)))
        curves.append(Curve("share", label, (1.0, 2.0, 3.0), tuple(100 * share for share in shares)))
    return numbers, curves


def function_values(x: Tensor) -> Tensor:
    """Three functions with a lowest minimum and a trap or a kink, one for each row of ``x``, ``(3, n)``."""
    a, b, c = x
    one = torch.where(a <= 0, (a + 0.3) ** 2, (a - 0.2) ** 2 + 0.05)
    two = torch.where(b <= -0.9, -40 * b - 35.15, b**3 + b * torch.sin(8 * b) + 0.85)
    size = c.abs()
    hill = torch.where(size <= 0.4, 7 * size / 8, 0.75 - size)
    return torch.stack([one, two, torch.where(size <= 0.5, hill, c**2)])
