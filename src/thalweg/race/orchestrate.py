"""The race itself: tune every recipe equally, run the best settings on fresh seeds, compare."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from thalweg.race.conduct import Conductor
from thalweg.race.devices import check_devices
from thalweg.race.environment import environment
from thalweg.race.errors import RaceError, ReportError
from thalweg.race.execute import cpu_count, default_workers, make_executor
from thalweg.race.folders import REPORT, database, latest_race, new_race, stored_race
from thalweg.race.options import check_options
from thalweg.race.plan import Plan
from thalweg.race.prepare import AnyTask, check_resumed, load_task, make_plan, task_of
from thalweg.race.progress import Listener, Silent
from thalweg.race.records import RaceResult, Run
from thalweg.race.spec import TaskSpec
from thalweg.race.storage import Storage
from thalweg.race.tensorboard import TensorBoard, summary_writer
from thalweg.race.tuning import edges
from thalweg.tasks.task import Task


def race(
    task: AnyTask | None = None,
    recipes: Sequence[str] | None = None,
    *,
    baseline: str | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    tuning_seeds: int | None = None,
    seed: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    target: float | None = None,
    stop_at_target: bool | None = None,
    schedule: str | None = None,
    storage: str | None = None,
    name: str | None = None,
    out: str | os.PathLike[str] = "runs",
    workers: int | None = None,
    ray: str | None = None,
    resume: bool = False,
    device: str | None = None,
    devices: int | None = None,
    precision: str | None = None,
    strategy: str | None = None,
    tensorboard: str | os.PathLike[str] | None = None,
    report: bool = True,
    progress: Listener | None = None,
) -> RaceResult:
    """Race training methods against a tuned baseline.

    Every recipe is tuned with the same number of trials (:mod:`thalweg.race.tuning`); its best settings then run on
    fresh seeds, the same for every recipe; recipes are compared with the baseline by paired ratios of the time to a
    target (:mod:`thalweg.race.statistics`). What is finished is stored at once, and ``resume=True`` goes on after any
    interruption; everything that is left out is then taken from the stored race.

    Args:
        task: a built-in task's name, the path of a Python file that defines ``task()``, or a
            :class:`~thalweg.tasks.Task`.
        recipes: what races, e.g. ``["adamw", "muon + orthogonal"]``.
        baseline: the recipe that the others are compared with; the first one if left out. It need not be in
            ``recipes``.
        trials: settings tried for each recipe, the published default included (6).
        seeds: fresh seeds (5); words such as *faster* need at least 3.
        tuning_seeds: seeds for each trial (1).
        seed: shifts every seed of the race (0).
        steps: budget of a run in optimizer steps; the task's own if neither is given.
        seconds: budget of a run in seconds of training.
        target: metric value that counts as done; the task's own if left out, and without one what every fresh baseline
            seed reaches.
        stop_at_target: end fresh runs at the target (no).
        schedule: ``"cosine"`` (with 5% warm-up, the default) or ``"constant"`` learning rates.
        storage: a database URL, or the name of a SQLite file; ``out/name/race.db`` if left out.
        name: the race's name; made from the task's if left out.
        out: folder of the races' folders.
        workers: processes that train at the same time; 0 trains in this process. One for each core or GPU if left out.
        ray: address of a Ray cluster, or ``"local"``.
        resume: go on with an interrupted race; the latest one in ``out`` if no name is given.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        devices: devices of one run (1).
        precision: Lightning Fabric's, e.g. ``"32-true"`` (the default), ``"bf16-mixed"``, ``"bf16-true"``.
        strategy: ``"ddp"`` or ``"fsdp"`` (FSDP2) for runs on several devices.
        tensorboard: folder for TensorBoard's event files.
        report: write ``out/name/report.html``.
        progress: is told what happens; nobody if left out.

    Returns:
        The result, with one row a recipe and every run.

    Raises:
        ValueError: a recipe or an option is wrong.
        TaskError: the task can't be trained.
        RaceError: the race can't start or go on, its storage can't be used (:class:`StorageError`), or its report can't be
            written (:class:`ReportError`, which holds the result).

    Example:
        >>> import tempfile
        >>> from thalweg.race import race
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = race("digits", ["adamw", "lion"], trials=2, seeds=2, steps=20, workers=0, out=folder)
        >>> [row.name for row in result.recipes]
        ['adamw', 'lion']
    """
    options = {
        "trials": trials,
        "seeds": seeds,
        "tuning_seeds": tuning_seeds,
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "target": target,
        "stop_at_target": stop_at_target,
        "schedule": schedule,
        "device": device,
        "devices": devices,
        "precision": precision,
        "strategy": strategy,
    }
    asked = check_options(options, workers, ray)
    if tensorboard is not None:
        summary_writer()  # a missing package is an error before the race exists
    enter = _resume if resume else _start
    store, plan, spec, folder = enter(task, recipes, baseline, asked, Path(out), name, storage, (workers, ray))
    with store:
        board = TensorBoard(Path(tensorboard), store.name, plan.metric_name) if tensorboard is not None else None
        runs = _conduct(store, plan, spec, (workers, ray), board, progress or Silent(), folder.name)
    result = result_of(plan, runs, store.name)
    return write_report(result, folder / REPORT) if report else result


def report_of(place: str, name: str | None = None, out: str | os.PathLike[str] = "runs") -> RaceResult:
    """Rebuild the report of a finished race from its storage.

    Args:
        place: the race's folder, its SQLite file, or its database URL.
        name: the race's name, where the storage has several.
        out: folder of the races' folders, for the report of a race in a database elsewhere.

    Raises:
        RaceError: there is no such race, it is not finished, or its report can't be written (:class:`ReportError`, which
            holds the result).
    """
    result = stored_result(place, name, out)
    folder = Path(place)
    target = folder if folder.is_dir() else folder.parent if "://" not in place else Path(out) / result.name
    return write_report(result, target / REPORT)


def stored_result(place: str, name: str | None = None, out: str | os.PathLike[str] = "runs") -> RaceResult:
    """A finished race from its storage, without writing anything; arguments and errors as for :func:`report_of`."""
    folder = Path(place)
    storage = str(folder / "race.db") if "://" not in place and folder.is_dir() else place
    if "://" not in storage and not Path(storage).exists():
        raise RaceError(f"there is no race in {place}")
    name = name or latest_race(Path(out), storage)
    with Storage(storage, name) as store:
        plan = store.read_plan()
        if plan is None:
            raise RaceError(f"there is no race {name!r} in {store.shown}; it has {', '.join(store.races()) or 'none'}")
        runs = store.read_runs(plan)
    if len(runs) < plan.total:
        raise RaceError(f"race {name!r} is not finished ({len(runs)} of {plan.total} runs); go on with --resume")
    return result_of(plan, runs, name)


def result_of(plan: Plan, runs: list[Run], name: str) -> RaceResult:
    """What a race's runs show."""
    from thalweg.race.statistics import conclude

    order = {recipe: number for number, recipe in enumerate(plan.recipes)}
    runs = sorted(runs, key=lambda run: (order[run.recipe], run.phase == "fresh", run.index))
    fresh = [run for run in runs if run.phase == "fresh"]
    wanted, steps, seconds = plan.conditions.target, plan.conditions.steps, plan.conditions.seconds
    target, rule, rows = conclude(runs, plan.recipes, plan.baseline, plan.goal, wanted, steps, seconds)
    for row in rows:
        settings = next(run.settings for run in fresh if run.recipe == row.name)
        row.settings, row.trials, row.seeds = settings, len(plan.settings[row.name]), plan.seeds
        row.edges, row.text = edges(settings, plan.spaces[row.name]), plan.texts.get(row.name, "")
    return RaceResult(
        name=name,
        task=plan.task,
        metric_name=plan.metric_name,
        goal=plan.goal,
        baseline=plan.baseline,
        target=target,
        target_rule=rule,
        budget=plan.budget(),
        recipes=rows,
        runs=runs,
        environment={**plan.environment, "command": plan.command()},
    )


def write_report(result: RaceResult, path: Path) -> RaceResult:
    """Write the HTML report and note its place in the result; a :class:`ReportError` with the result if that fails."""
    from thalweg.report import html

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        html.write_report(result, path)
    except OSError as error:
        why = error.strerror or str(error)
        raise ReportError(
            f"can't write the report {path}: {why}; the race is kept, see thalweg report", result
        ) from None
    result.report = str(path)
    return result


Workers = tuple[int | None, str | None]


def _start(
    task: AnyTask | None,
    recipes: Sequence[str] | None,
    baseline: str | None,
    asked: Mapping[str, Any],
    out: Path,
    name: str | None,
    storage: str | None,
    workers: Workers,
) -> tuple[Storage, Plan, TaskSpec, Path]:
    """A new race in the storage, and its folder."""
    if task is None or recipes is None:
        raise ValueError("a new race needs a task and recipes, e.g. race('digits', ['adamw', 'lion'])")
    spec, loaded = load_task(task)
    plan = make_plan(spec, loaded, recipes, baseline, asked)
    spec = _travelling(spec, loaded, workers)
    check_devices(plan.conditions, *workers)
    plan = dataclasses.replace(plan, environment=environment(plan.conditions, *_share(plan, workers)))
    name = new_race(out, name, plan.task, storage)
    try:
        store = Storage(database(out, name, storage), name)
        _or_close(store, lambda: store.begin(resume=False))
        _or_close(store, lambda: store.write_plan(plan))
    except RaceError:
        with suppress(OSError):
            (out / name).rmdir()  # only if nothing is in it
        raise
    return store, plan, spec, out / name


def _resume(
    task: AnyTask | None,
    recipes: Sequence[str] | None,
    baseline: str | None,
    asked: Mapping[str, Any],
    out: Path,
    name: str | None,
    storage: str | None,
    workers: Workers,
) -> tuple[Storage, Plan, TaskSpec, Path]:
    """A stored race, checked against what was asked for, and its folder."""
    place = stored_race(out, name, storage)
    store = Storage(place.database, place.name)

    def check() -> tuple[Plan, TaskSpec]:
        plan = store.begin(resume=True)
        assert plan is not None
        spec, loaded = load_task(task if task is not None else task_of(plan, store.name))
        check_resumed(plan, store.name, spec, loaded, recipes, baseline, asked)
        if len(store.read_runs(plan)) < plan.total:
            check_devices(plan.conditions, *workers)
        return plan, _travelling(spec, loaded, workers)

    plan, spec = _or_close(store, check)
    return store, plan, spec, place.folder


def _or_close(store: Storage, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except BaseException:
        store.close()
        raise


def _travelling(spec: TaskSpec, task: Task, workers: Workers) -> TaskSpec:
    """The spec that workers get; training in this process needs no copy of a task object."""
    return spec.held(task) if workers[0] == 0 else spec.pickled(task)


def _share(plan: Plan, workers: Workers) -> tuple[int, int]:
    """Worker processes and threads of each."""
    count, ray = workers
    if count == 0:
        return 0, torch.get_num_threads()
    if ray is not None:
        from thalweg.race.ray_executor import cluster_slots

        return min(count or cluster_slots(ray, plan.conditions), plan.total), 1
    count = max(1, min(count or default_workers(plan.conditions), plan.total))
    return count, max(1, cpu_count() // count)


def _conduct(
    store: Storage,
    plan: Plan,
    spec: TaskSpec,
    workers: Workers,
    board: TensorBoard | None,
    listener: Listener,
    name: str,
) -> list[Run]:
    """Run what is left, storing every run as it ends; ``name`` is what the race can be resumed by."""

    def keep(run: Run) -> None:
        store.write_run(plan, run)
        if board is not None:
            board.write(run)

    done = store.read_runs(plan)
    conductor = Conductor(plan, done, keep, listener)
    if conductor.left:
        executor = make_executor(spec, plan.conditions, *_share(plan, workers), workers[1])
        try:
            listener.started(name, plan, done)
            conductor.run(executor)
        finally:
            executor.close()
            listener.stopped()
    return list(conductor.runs.values())
