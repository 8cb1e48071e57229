"""Arms of an experiment that differ in the rule for a language model's hidden matrices, with AdamW for the rest.

The first arm is AdamW for everything with one learning rate: it is chosen first, and the rest of all others takes it. Then each of
the others has its own chosen, with as many trials. A fair AdamW is one of them: the rest may prefer another rate than the matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from thalweg.claims.engine.contract import Curve, Measurement, Report, Role
from thalweg.claims.engine.language_model import Course, Size, best_rate, decoder, train
from thalweg.claims.engine.paired import Difference, difference
from thalweg.optim import AdamW, subspace_groups

TUNING_SEED = 1000
LOSS = "validation loss"

BETAS = (0.9, 0.95)
"""Adam's, in every arm: those of the claims about Muon, under which AdamW is the better baseline on this model."""

Maker = Callable[[Any, float, float], torch.optim.Optimizer]
"""Gives the optimizer of a model, for the learning rate of its hidden matrices and that of the rest."""

Trainer = Callable[[Callable[[Any], torch.optim.Optimizer], int], Course]
"""Trains with the optimizer that is made of its model, from a seed: ``partial(train, size=size)``."""


@dataclass(frozen=True)
class Arm:
    """One rule.

    Args:
        make: its optimizer.
        middle: exponent of ten in the middle of its learning rates.
        role: in the figure.
        points: number of rates.
        spacing: of their exponents.
    """

    make: Maker
    middle: float
    role: Role = "measured"
    points: int = 3
    spacing: float = 0.5

    @property
    def grid(self) -> tuple[float, ...]:
        """Exponents of the first rates to try.

        Example:
            >>> Arm(adamw, -2.5).grid
            (-3.0, -2.5, -2.0)
        """
        return tuple(self.middle + self.spacing * (k - (self.points - 1) / 2) for k in range(self.points))


@dataclass(frozen=True)
class Plan:
    """A size; and at most how many rates to add where the best one lies at an edge, or None: middle rates, nothing chosen."""

    size: Size
    widen: int | None

    @property
    def trainer(self) -> Trainer:
        """The language model of that size."""
        return partial(train, size=self.size)


Arms = Mapping[str, Arm]
Chosen = Mapping[str, Mapping[str, float]]


def adamw(model: Any, rate: float, rest: float, groups_of: Callable[[Any], Any] = subspace_groups) -> AdamW:
    """AdamW for everything, without decay: hidden matrices at ``rate``, all else at ``rest``.

    ``groups_of`` says which are hidden: those whose group has another ``"rule"`` than ``"adamw"``.
    """
    groups = [{**group, "lr": rest if group["rule"] == "adamw" else rate} for group in groups_of(model)]
    groups = [{key: value for key, value in group.items() if key != "rule"} for group in groups]
    return AdamW(groups, betas=BETAS, weight_decay=0.0)


def adam_settings(rate: float, rest: float) -> dict[str, Any]:
    """What subspace optimizers have in common with :func:`adamw`."""
    return {"lr": rate, "betas": BETAS, "rest_lr": rest, "rest_betas": BETAS}


def choose_rates(arms: Arms, trainer: Trainer, widen: int | None, *, report: Report) -> dict[str, dict[str, float]]:
    """For every arm its best learning rate, ``"rate"``, and the final ``"loss"`` that it gave, on a seed of its own."""
    chosen: dict[str, dict[str, float]] = {}
    first = next(iter(arms))
    for place, (name, arm) in enumerate(arms.items()):
        report(place / len(arms), f"choosing the learning rate of {name}")
        losses: dict[float, float] = {}

        def score(rate: float, name: str = name, arm: Arm = arm, losses: dict[float, float] = losses) -> float:
            rest = rate if name == first else chosen[first]["rate"]
            losses[rate] = trainer(lambda model: arm.make(model, rate, rest), TUNING_SEED).final
            return losses[rate]

        if widen is None:
            chosen[name] = {"rate": 10**arm.middle, "loss": score(10**arm.middle)}
        else:
            rate = best_rate(score, arm.grid, widen)
            chosen[name] = {"rate": rate, "loss": losses[rate]}
    return chosen


def run_arms(
    arms: Arms,
    chosen: Chosen,
    trainer: Trainer,
    seed: int,
    *,
    report: Report,
    rest_of: str | None = None,
    watch: Callable[[str, Any, torch.optim.Optimizer], None] = lambda name, model, optimizer: None,
) -> dict[str, Course]:
    """Train all arms at their rates from one start, over the same data; ``watch`` sees each before its first step.

    The rest has the rate of the arm ``rest_of``, or of the first one.
    """
    courses: dict[str, Course] = {}
    rest = chosen[rest_of or next(iter(arms))]["rate"]
    for place, (name, arm) in enumerate(arms.items()):
        report(place / len(arms), name)

        def make(model: Any, name: str = name, arm: Arm = arm) -> torch.optim.Optimizer:
            optimizer = arm.make(model, chosen[name]["rate"], rest)
            watch(name, model, optimizer)
            return optimizer

        courses[name] = trainer(make, seed)
    return courses


def measured(
    arms: Arms, courses: Mapping[str, Course], numbers: Mapping[str, float] | None = None, panel: str = "loss"
) -> Measurement:
    """Final losses beside other numbers, and the courses as curves of ``panel``."""
    found = {f"{name}: {LOSS}": course.final for name, course in courses.items()}
    curves = [Curve(panel, name, course.steps, course.losses, arms[name].role) for name, course in courses.items()]
    return Measurement({**found, **(numbers or {})}, tuple(curves))


def losses_of(measurements: list[Measurement], arm: str) -> list[float]:
    """Final losses of an arm, seed by seed."""
    return [m.numbers[f"{arm}: {LOSS}"] for m in measurements]


def gap(measurements: list[Measurement], first: str, second: str) -> Difference:
    """Final loss of one arm minus that of another, seed by seed."""
    return difference(losses_of(measurements, first), losses_of(measurements, second))


def in_words(found: Difference) -> str:
    """A difference of losses, with its interval.

    Example:
        >>> in_words(difference([3.0, 4.0, 5.0], [2.0, 2.0, 2.0]))
        '+2.000 (-0.484 to +4.484)'
    """
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def state_share(arm: Arm, size: Size) -> float:
    """Bytes of state of the hidden matrices after a step, as a share of AdamW's two float32 numbers for each weight."""
    model = decoder(size)
    optimizer = arm.make(model, 1e-3, 1e-3)
    for place, param in enumerate(model.parameters()):
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(place))
    optimizer.step()
    hidden = [param for _, param in subspace_groups(model)[0]["params"]]
    kept = sum(_bytes(value) for param in hidden for name, value in optimizer.state[param].items() if name != "step")
    return kept / sum(8 * param.numel() for param in hidden)


def _bytes(value: Any) -> int:
    return value.nbytes if isinstance(value, torch.Tensor) else 0
