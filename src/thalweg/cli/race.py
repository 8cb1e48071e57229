"""Commands about races: race, report, tasks, methods."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thalweg.cli.app import RACES, DebugOption, JsonOption, app
from thalweg.cli.output import console, fail, interrupt, print_json, reserved_stdout, show

if TYPE_CHECKING:
    from thalweg.race.profiles import Against
    from thalweg.race.records import RaceResult

TASK = "mnist5k"
RECIPES = ["adamw", "sgd", "lion", "lamb", "muon", "muon + orthogonal"]

_BUDGET, _WHERE, _STORE, _OUTPUT = "Budget", "Where it runs", "Storage", "Output"

RecipeArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPES]...", help="What races, e.g. [cyan]adamw 'muon + orthogonal'[/cyan].", show_default=False
    ),
]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option("--recipes", "-r", help="The same as an option; may be repeated.", show_default=False),
]
TaskOption = Annotated[
    str | None,
    typer.Option(help=f"A built-in task, or a Python file that defines task(). [dim]\\[default: {TASK}][/dim]"),
]


@app.command("race", rich_help_panel=RACES)
def race_command(
    recipes: RecipeArgument = None,
    more: RecipeOption = None,
    task: TaskOption = None,
    baseline: Annotated[
        str | None, typer.Option(help="What the others are compared with. [dim]\\[default: the first recipe][/dim]")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Settings tried for each recipe. [dim]\\[default: 6][/dim]", rich_help_panel=_BUDGET),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds for each recipe's best setting. [dim]\\[default: 5][/dim]", rich_help_panel=_BUDGET
        ),
    ] = None,
    tuning_seeds: Annotated[
        int | None,
        typer.Option(help="Seeds for each tried setting. [dim]\\[default: 1][/dim]", rich_help_panel=_BUDGET),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Shifts all seeds. [dim]\\[default: 0][/dim]", rich_help_panel=_BUDGET)
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Optimizer steps of a run. [dim]\\[default: the task's][/dim]", rich_help_panel=_BUDGET),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Seconds of training of a run, instead of steps.", rich_help_panel=_BUDGET)
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Metric value that counts as done. [dim]\\[default: what every fresh baseline seed reaches][/dim]",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    stop_at_target: Annotated[
        bool | None,
        typer.Option(
            "--stop-at-target", help="End fresh runs at the target.", rich_help_panel=_BUDGET, show_default=False
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Learning rates: cosine (after 5% warm-up) or constant. [dim]\\[default: cosine][/dim]",
            rich_help_panel=_BUDGET,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Database URL or SQLite file. [dim]\\[default: OUT/NAME/race.db][/dim]",
            envvar="THALWEG_STORAGE",
            rich_help_panel=_STORE,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the race. [dim]\\[default: made from the task's][/dim]", rich_help_panel=_STORE),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all races.", rich_help_panel=_STORE)] = Path("runs"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with an interrupted race: the latest one, or --name.", rich_help_panel=_STORE
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that train at the same time; 0: in this one. [dim]\\[default: one a core or GPU][/dim]",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="Train on a Ray cluster.", rich_help_panel=_WHERE)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps. [dim]\\[default: auto][/dim]", rich_help_panel=_WHERE)
    ] = None,
    devices: Annotated[
        int | None, typer.Option(help="Devices of one run. [dim]\\[default: 1][/dim]", rich_help_panel=_WHERE)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="32-true, bf16-mixed, bf16-true, ... [dim]\\[default: 32-true][/dim]", rich_help_panel=_WHERE
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="ddp or fsdp, for runs on several devices.", rich_help_panel=_WHERE)
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write curves for TensorBoard there.", rich_help_panel=_OUTPUT)
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.", rich_help_panel=_OUTPUT)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.", rich_help_panel=_OUTPUT)] = False,
) -> None:
    """Race training methods: tune all equally, run the best on fresh seeds, compare.

    A recipe is an optimizer and what goes with it, joined by [cyan]+[/cyan]; settings in parentheses are fixed, the
    others are tuned. [cyan]thalweg methods[/cyan] lists the names.

    [bold]Examples[/bold]

      thalweg race                      # six recipes on 5,000 real digits

      thalweg race --task digits adamw lion 'muon + orthogonal'

      thalweg race --task my_task.py adamw 'lion(betas=(0.95, 0.98))'

      thalweg race 'adamw(lr=log(1e-4, 0.3))' 'small: galore(rank=8)'  # a range of yours, a label

      thalweg race --resume             # after a crash or Ctrl-C

      thalweg race --storage postgresql://me@db/races --ray auto
    """
    from thalweg.race import ReportError, race
    from thalweg.race.progress import Bars

    signal.signal(signal.SIGTERM, interrupt)
    bars = Bars()
    named = [*(recipes or []), *(more or [])] or None
    unwritten: ReportError | None = None
    with reserved_stdout() if json_ else contextlib.nullcontext():
        try:
            result = race(
                task if task is not None or resume else TASK,
                named if named is not None or resume else RECIPES,
                baseline=baseline,
                trials=trials,
                seeds=seeds,
                tuning_seeds=tuning_seeds,
                seed=seed,
                steps=steps,
                seconds=seconds,
                target=target,
                stop_at_target=stop_at_target,
                schedule=schedule,
                storage=storage,
                name=name,
                out=out,
                workers=workers,
                ray=ray,
                resume=resume,
                device=device,
                devices=devices,
                precision=precision,
                strategy=strategy,
                tensorboard=tensorboard,
                progress=bars,
            )
        except KeyboardInterrupt:
            place = "" if out == Path("runs") else f" --out {out}"
            place += "" if storage is None else " and the same --storage"
            fail(bars.farewell(place), 130)
        except ReportError as error:
            result, unwritten = error.result, error
    _show(result, json_)
    if unwritten is not None:
        raise unwritten
    if not any(run.outcome == "finished" for run in result.runs):
        first = result.runs[0]
        fail(f"no run finished; the first, of {first.recipe}: {first.outcome}: {first.message}", 1)


@app.command("report", rich_help_panel=RACES)
def report_command(
    places: Annotated[
        list[str], typer.Argument(metavar="PLACE...", help="A race's folder, its SQLite file, or a database URL.")
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Which race, where a storage has several; with --profile it may be repeated.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of all races, for a database elsewhere.")] = Path("runs"),
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Compare the recipes over all these races: performance profiles and a score."),
    ] = False,
    seconds: Annotated[
        bool, typer.Option("--seconds", help="Profiles by seconds of training instead of steps.")
    ] = False,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PNG file of the profiles. [dim]\\[default: OUT/profile.png][/dim]"),
    ] = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Rebuild the table and the HTML report of a finished race, or compare several.

    With [cyan]--profile[/cyan] recipes are scored over races on several tasks, as AlgoPerf does it: by the share of tasks on
    which they reach the target in at most so many times what the best recipe needs.

    [bold]Examples[/bold]

      thalweg report runs/mnist5k

      thalweg report runs/mnist5k runs/docs-lm --profile
    """
    races = _named_races(places, name or [])
    if profile:
        _show_profile(races, out, "seconds" if seconds else "steps", figure, json_)
        return
    if seconds or figure is not None:
        raise ValueError("--seconds and --figure belong to --profile")
    if len(races) > 1:
        raise ValueError("one report at a time: name one race, or compare several with --profile")
    from thalweg.race import ReportError, report_of

    try:
        _show(report_of(*races[0], out), json_)
    except ReportError as error:
        _show(error.result, json_)
        raise


def _named_races(places: list[str], names: list[str]) -> list[tuple[str, str | None]]:
    """Places with the names of races: several names of one place, or a name for each place, or none."""
    if not names:
        return [(place, None) for place in places]
    if len(places) not in (1, len(names)):
        raise ValueError(f"--name was given {len(names)} times for {len(places)} places: give it once for each")
    return list(zip(places * len(names) if len(places) == 1 else places, names, strict=True))


def _show_profile(
    races: list[tuple[str, str | None]], out: Path, against: Against, figure: Path | None, as_json: bool
) -> None:
    """Profiles of several races: a table or JSON, and the figure."""
    from thalweg.race.orchestrate import stored_result
    from thalweg.race.profiles import profiles
    from thalweg.report.figures import write_image
    from thalweg.report.profiles import profile_curves, profile_table

    found = profiles([stored_result(place, name, out) for place, name in races], against)
    path = out / "profile.png" if figure is None else figure
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(profile_curves(found, against), path)
    except OSError as error:
        raise ValueError(f"can't write the figure {path}: {error.strerror or error}") from None
    if as_json:
        print_json({"against": against, "figure": str(path), "recipes": [row.to_json() for row in found]})
        return
    show(profile_table(found, against))
    typer.echo(f"Figure: {path}")


@app.command("tasks", rich_help_panel=RACES)
def tasks_command(json_: JsonOption = False, debug: DebugOption = False) -> None:
    """List the built-in tasks."""
    from thalweg.race.listing import task_rows, task_table

    rows = task_rows()
    print_json(rows) if json_ else show(task_table(rows))


@app.command("methods", rich_help_panel=RACES)
def methods_command(
    name: Annotated[str | None, typer.Argument(help="One method, with all its settings.")] = None,
    seam: Annotated[str | None, typer.Option(help="Only methods that act there: optim, init, nn or data.")] = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List what a recipe can name, with settings, defaults and what a race tunes."""
    from thalweg.race.listing import method_rows, method_table

    rows = method_rows(seam, name)
    print_json(rows) if json_ else show(method_table(rows))


def _show(result: RaceResult, as_json: bool) -> None:
    if as_json:
        print_json(result.summary())
        return
    from thalweg.report.table import race_table

    screen = console()
    screen.print(race_table(result, screen.width))
    if result.report is not None:
        typer.echo(f"Report: {result.report}")
