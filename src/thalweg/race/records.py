"""What a race measures and what it concludes, as plain data: everything here goes to JSON and back."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["finished", "diverged", "out_of_memory", "raised", "killed"]
Goal = Literal["min", "max"]
Verdict = Literal["baseline", "faster", "slower", "no difference shown", "too few seeds", "failed", "no comparison"]


@dataclass
class Run:
    """One training run: its identity, what it measured, and how it ended.

    The four curves have one entry an evaluation, the first before any step. ``seconds`` counts training steps only,
    evaluations and set-up left out. ``train_loss`` is the mean over the steps since the evaluation before (NaN at the
    first).
    """

    recipe: str
    phase: Literal["tune", "fresh"]
    index: int
    seed: int
    settings: dict[str, Any]
    outcome: Outcome = "finished"
    message: str = ""
    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    step_seconds: float = math.nan
    peak_memory_bytes: int = 0
    state_bytes: int = 0

    def best(self, goal: Goal) -> float:
        """Best metric value seen; the worst possible one (inf or -inf) if there is none."""
        finite = [m for m in self.metric if math.isfinite(m)]
        worst = math.inf if goal == "min" else -math.inf
        return (min if goal == "min" else max)(finite, default=worst)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: numbers that JSON lacks (NaN, infinity) become null."""
        return jsonable(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Run:
        """The run that :meth:`to_json` wrote; null numbers become NaN."""
        data = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        for key in ("train_loss", "metric", "seconds"):
            data[key] = [math.nan if value is None else value for value in data.get(key, [])]
        if data.get("step_seconds") is None:
            data["step_seconds"] = math.nan
        return cls(**data)


@dataclass
class RecipeResult:
    """One recipe's row: medians over fresh seeds, and paired ratios against the baseline (below 1 is better).

    Times to target are ``None`` where the median run never got there; ratios and intervals are ``None`` where there is no
    comparison, and ``reason`` says why. ``final`` is the mean over fresh seeds of the metric at the last evaluation.
    """

    name: str
    settings: dict[str, Any]
    trials: int
    seeds: int
    steps_to_target: float | None = None
    steps_ratio: float | None = None
    steps_ratio_ci: tuple[float, float] | None = None
    seconds_to_target: float | None = None
    seconds_ratio: float | None = None
    seconds_ratio_ci: tuple[float, float] | None = None
    reached: int = 0
    final: float | None = None
    final_ci: tuple[float, float] | None = None
    step_seconds: float | None = None
    peak_memory_bytes: int = 0
    state_bytes: int = 0
    diverged: int = 0
    failed: int = 0
    verdict: Verdict = "too few seeds"
    edges: list[str] = field(default_factory=list)
    """Tuned settings whose best value lies at the edge of the searched range."""
    text: str = ""
    """The recipe behind a label."""
    reason: str = ""
    """Why a ratio or the whole comparison is missing; empty where nothing is."""


@dataclass
class RaceResult:
    """A finished race: the task, how it was run, one row a recipe and every run behind it."""

    name: str
    task: str
    metric_name: str
    goal: Goal
    baseline: str
    target: float
    target_rule: str
    budget: dict[str, Any]
    recipes: list[RecipeResult]
    runs: list[Run]
    environment: dict[str, Any]
    report: str | None = None

    @property
    def decides(self) -> Literal["steps", "seconds"]:
        """Which ratio the verdicts come from: that of the budget's unit."""
        return "seconds" if self.budget.get("seconds") is not None else "steps"

    def runs_of(self, recipe: str, phase: str) -> list[Run]:
        """The runs of one recipe and phase (``"tune"`` or ``"fresh"``), in index order."""
        return sorted((r for r in self.runs if r.recipe == recipe and r.phase == phase), key=lambda r: r.index)

    def summary(self) -> dict[str, Any]:
        """What ``thalweg race --json`` prints."""
        rows = [dataclasses.asdict(row) for row in self.recipes]
        return jsonable(
            {"task": self.task, "baseline": self.baseline, "target": self.target, "metric": self.metric_name,
             "goal": self.goal, "decides": self.decides, "recipes": rows, "report": self.report}
        )  # fmt: skip


def jsonable(value: Any) -> Any:
    """``value`` with tuples as lists and non-finite floats as None, as ``json.dumps(..., allow_nan=False)`` needs."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
