"""What a worker is asked to do: one job is one training run, under the conditions that the whole race shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from thalweg.race.records import Run
from thalweg.race.schedule import Schedule

Strategy = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True)
class Job:
    """One training run: who runs it with which settings on which seed.

    Args:
        recipe: the recipe's name.
        phase, index: which of the race's runs it is.
        seed: its seed.
        settings: values of what is tuned.
        text: the recipe, where its name is a label; empty otherwise.
    """

    recipe: str
    phase: Literal["tune", "fresh"]
    index: int
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    def empty_run(self) -> Run:
        """The record of this job before anything was measured."""
        return Run(self.recipe, self.phase, self.index, self.seed, dict(self.settings))


@dataclass(frozen=True)
class Conditions:
    """What is equal for every run of a race.

    Args:
        steps: budget in optimizer steps; ``None`` if it is in seconds.
        seconds: budget in seconds of training steps; ``None`` if it is in steps.
        eval_every: steps between evaluations; ``None``: a twenty-fifth of the budget.
        target: metric value that counts as done, where it is known before the race.
        stop_at_target: end a fresh run at its first evaluation that reaches the target.
        schedule: learning-rate schedule, see :mod:`thalweg.race.schedule`.
        device: Lightning Fabric's accelerator: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``.
        devices: devices a run uses.
        precision: Lightning Fabric's precision, e.g. ``"32-true"``, ``"bf16-mixed"``, ``"bf16-true"``.
        strategy: how a run uses several devices: ``"ddp"``, or ``"fsdp"`` for FSDP2; ``"auto"`` is ``"ddp"`` if there
            are several.
    """

    steps: int | None = None
    seconds: float | None = None
    eval_every: int | None = None
    target: float | None = None
    stop_at_target: bool = False
    schedule: Schedule = "cosine"
    device: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    strategy: Strategy = "auto"

    @property
    def distributed(self) -> bool:
        """Whether a run needs its own group of processes."""
        return self.devices > 1 or self.strategy != "auto"
