"""Synthetic races: deterministic, with everything that a report has to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from thalweg.race.records import Goal, RaceResult, RecipeResult, Run
from thalweg.report import write_report

RATES = {"adamw": 1.0, "muon": 1.75, "muon + orthogonal": 1.95, "lion": 1.06, "lamb": 0.6, "sgd": 0.45}
SECONDS = {"adamw": 0.011, "muon": 0.0152, "muon + orthogonal": 0.0153, "lion": 0.0102, "lamb": 0.0125, "sgd": 0.0093}
STATE = {"adamw": 2, "muon": 1, "muon + orthogonal": 1, "lion": 1, "lamb": 2, "sgd": 1}
BUDGET, EVERY, TARGET, PARAMETERS = 300, 12, 0.93, 421_642


def make_run(name: str, phase: str, index: int, rate: float, settings: dict, budget: int = BUDGET, every: int = EVERY,
             second: float = 0.01) -> Run:  # fmt: skip
    """A run whose accuracy rises to 0.985 at ``rate``; its noise depends on the arguments only."""
    seed = index + 1 if phase == "fresh" else 50_001
    noise = np.random.default_rng([index, len(name), phase == "fresh", *name.encode()])
    pace = rate * math.exp(noise.normal(0, 0.07))
    steps = list(range(0, budget + 1, every))
    shape = np.exp(-pace * np.array(steps) / 42)
    metric = 0.982 - 0.87 * shape ** (0.85) - np.abs(noise.normal(0, 0.006, len(steps))) * (1 - shape)
    loss = 0.045 + 2.26 * shape * np.exp(noise.normal(0, 0.05, len(steps)))
    return Run(
        name, phase, index, seed, settings, steps=steps, seconds=[s * second for s in steps],
        train_loss=[math.nan, *map(float, loss[1:])], metric=[float(m) for m in metric], step_seconds=second,
        peak_memory_bytes=48 * 2**20 + STATE.get(name, 1) * 4 * PARAMETERS, state_bytes=STATE.get(name, 1) * 4 * PARAMETERS,
    )  # fmt: skip


def diverge(run: Run, after: int = 4, message: str = "the loss is not finite at step 49") -> Run:
    """Cut ``run`` short, with an explosion at its end."""
    run.outcome, run.message = "diverged", message
    run.steps, run.seconds = run.steps[: after + 1], run.seconds[: after + 1]
    run.metric = [*run.metric[:after], math.nan]
    run.train_loss = [*run.train_loss[: after - 1], 4e7, math.inf]
    return run


def fail(run: Run, outcome: str = "raised", message: str = "RuntimeError: shapes don't match (my_task.py:31)") -> Run:
    """A run that ended before it measured anything."""
    run.outcome, run.message = outcome, message  # type: ignore[assignment]
    run.steps, run.seconds, run.train_loss, run.metric = [], [], [], []
    run.step_seconds, run.peak_memory_bytes, run.state_bytes = math.nan, 0, 0
    return run


def reach(run: Run, target: float) -> tuple[float, float] | None:
    """Steps and seconds at the first evaluation that meets the target."""
    pairs = zip(run.metric, run.steps, run.seconds, strict=False)
    return next(((float(s), t) for m, s, t in pairs if m >= target), None)


def summarize(name: str, baseline: str, runs: list[Run], target: float = TARGET) -> RecipeResult:
    """The row of one recipe, by a paired t-interval of log ratios."""
    mine = sorted((r for r in runs if r.recipe == name and r.phase == "fresh"), key=lambda r: r.seed)
    base = sorted((r for r in runs if r.recipe == baseline and r.phase == "fresh"), key=lambda r: r.seed)
    trials = [r for r in runs if r.recipe == name and r.phase == "tune"]
    good = [r for r in mine if r.outcome == "finished"]
    row = RecipeResult(name, mine[0].settings if mine else {}, max(1, len(trials)), len(mine))
    whole = (float(BUDGET), BUDGET * SECONDS.get(name, 0.01))
    times = [reach(r, target) for r in mine]
    row.reached = sum(t is not None for t in times)
    if 2 * row.reached > len(times):
        row.steps_to_target = float(np.median([(t or whole)[0] for t in times]))
        row.seconds_to_target = float(np.median([(t or whole)[1] for t in times]))
    if name != baseline and good and len(mine) == len(base):
        for i, key in enumerate(("steps", "seconds")):
            pairs = zip(times, base, strict=True)
            logs = [math.log((t or whole)[i] / (reach(b, target) or whole)[i]) for t, b in pairs]
            mean = float(np.mean(logs))
            setattr(row, f"{key}_ratio", math.exp(mean))
            if len(logs) > 1:
                half = float(stats.t.ppf(0.975, len(logs) - 1) * np.std(logs, ddof=1) / math.sqrt(len(logs)))
                setattr(row, f"{key}_ratio_ci", (math.exp(mean - half), math.exp(mean + half)))
    finals = [r.metric[-1] for r in good]
    if finals:
        row.final = float(np.mean(finals))
        row.final_ci = (min(finals) - 0.001, max(finals) + 0.001) if len(finals) > 1 else None
        row.step_seconds = float(np.median([r.step_seconds for r in good]))
        row.peak_memory_bytes, row.state_bytes = good[0].peak_memory_bytes, good[0].state_bytes
    row.diverged = sum(r.outcome == "diverged" for r in mine)
    row.failed = sum(r.outcome in ("raised", "out_of_memory", "killed") for r in mine)
    low, high = row.steps_ratio_ci or (0.0, math.inf)
    if name == baseline:
        row.verdict = "baseline"
    elif len(mine) >= 3:
        row.verdict = "faster" if high < 1 else "slower" if low > 1 else "no difference shown"
    return row


def make_race(names: Sequence[str] = tuple(RATES), seeds: int = 5, trials: int = 12, goal: Goal = "max",
              change: Callable[[Run], Run] = lambda run: run, budget: int = BUDGET, every: int = EVERY) -> RaceResult:  # fmt: skip
    """A race of ``names``, the first one the baseline; ``change`` sees every run before it is summed up."""
    runs = []
    for place, name in enumerate(names):
        rate, second = RATES.get(name, 0.7 + 0.1 * place), SECONDS.get(name, 0.01 + 0.0004 * place)
        noise = np.random.default_rng(place)
        tried = [{"lr": float(10 ** noise.uniform(-4, -1)), "weight_decay": float(10 ** noise.uniform(-3, 0)),
                  "momentum": float(noise.uniform(0.8, 0.99))} for _ in range(trials)]  # fmt: skip
        away = [abs(math.log10(t["lr"]) + 2.3) for t in tried]
        for i, settings in enumerate(tried):
            run = make_run(name, "tune", i, rate * math.exp(-0.6 * away[i]), settings, budget, every, second)
            runs.append(change(diverge(run) if away[i] > 1.1 and settings["lr"] > 0.03 else run))
        best = tried[int(np.argmin(away))] if tried else {}
        runs += [change(make_run(name, "fresh", i, rate, best, budget, every, second)) for i in range(seeds)]
    rows = [summarize(name, names[0], runs) for name in names]
    for row in rows[1:3]:
        row.edges = ["lr"] if row.settings else []
    result = RaceResult(
        name="mnist5k-1", task="mnist5k", metric_name="accuracy", goal="max", baseline=names[0], target=TARGET,
        target_rule="what every fresh baseline seed reaches: its weakest best value",
        budget={"steps": budget, "trials": trials, "tuning_seeds": 1, "seeds": seeds}, recipes=rows, runs=runs,
        environment={"thalweg": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "optuna": "5.0.0",
                     "platform": "Linux x86_64", "processor": "a processor", "cores": 2, "accelerator": "cpu",
                     "workers": 2, "threads": 1, "command": ["thalweg", "race", "--task", "mnist5k", *names]},
    )  # fmt: skip
    return _as_error(result) if goal == "min" else result


def _as_error(result: RaceResult) -> RaceResult:
    """The same race judged by the error, which should go down."""
    for run in result.runs:
        run.metric = [1 - m for m in run.metric]
    for row in result.recipes:
        row.final = None if row.final is None else 1 - row.final
        row.final_ci = None if row.final_ci is None else (1 - row.final_ci[1], 1 - row.final_ci[0])
    result.goal, result.metric_name, result.target = "min", "error", 1 - result.target
    return result


def some_trouble(run: Run) -> Run:
    """A few runs that diverge, run out of memory or raise."""
    if run.phase == "fresh" and run.recipe == "lamb" and run.index == 3:
        return diverge(run)
    if run.phase == "tune" and run.recipe == "muon" and run.index in (2, 7):
        return fail(run, "out_of_memory", "MemoryError: tried to take 9.1 GiB " + "while the step was under way " * 14)
    if run.phase == "fresh" and run.recipe == "sgd" and run.index == 1:
        return fail(run)
    return run


@pytest.fixture(scope="session")
def race() -> RaceResult:
    """Six recipes, five seeds, twelve trials, a few runs that failed; don't change it."""
    return make_race(change=some_trouble)


@pytest.fixture(scope="session")
def race_report(race: RaceResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of ``race``, written once."""
    return write_report(race, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(scope="session")
def races() -> dict[str, RaceResult]:
    """Races at the edges of what can happen; don't change them."""
    names = [f"method_{i}(betas=(0.9, 0.{95 + i % 5})) + orthogonal" for i in range(19)]
    lost = make_race(["adamw", "lion"], trials=3, change=lambda run: fail(run, "killed", "killed by signal 9"))
    lost.target = math.nan
    strange = make_race(["adamw", "lion", "sgd"], trials=3)
    strange.recipes[1].steps_ratio_ci = (0.5, math.inf)
    strange.recipes[1].seconds_ratio = math.inf
    strange.recipes[1].final, strange.recipes[1].final_ci = math.inf, (-math.inf, math.inf)
    strange.recipes[2].step_seconds = math.nan
    strange.recipes[2].final = -1e30
    never = make_race(["adamw", "lion"], trials=3)
    never.target = 0.9999
    for row in never.recipes:
        row.reached, row.steps_to_target, row.seconds_to_target = 0, None, None
    return {
        "one recipe": make_race(["adamw"]),
        "twenty recipes": make_race(["adamw", *names], seeds=3, trials=3),
        "one seed": make_race(["adamw", "lion"], trials=3, seeds=1),
        "no tuning": make_race(["adamw", "lion"], trials=0),
        "all diverged": make_race(["adamw", "lion"], trials=3, change=diverge),
        "all killed": lost,
        "strange values": strange,
        "target never reached": never,
        "error goes down": make_race(["adamw", "lamb", "sgd"], goal="min", change=some_trouble),
        "many evaluations": make_race(["adamw", "lion"], trials=2, budget=20_000, every=2, seeds=3),
        "long messages": make_race(["adamw", "lion"], trials=3, change=lambda run: fail(run, "raised", "no! " * 5_000)),
    }


@pytest.fixture(scope="session")
def edge_report(races: dict[str, RaceResult], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``edge_report(name)``: the report of one of ``races``, written once."""
    folder = tmp_path_factory.mktemp("edges")

    def written(name: str) -> Path:
        path = folder / f"{name.replace(' ', '-')}.html"
        return path if path.exists() else write_report(races[name], path)

    return written
