"""The command that checks papers' claims."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thalweg.cli.app import READING, DebugOption, JsonOption, app
from thalweg.cli.output import console, fail, interrupt, print_json, reserved_stdout

if TYPE_CHECKING:
    from thalweg.claims.engine.contract import Result
    from thalweg.claims.engine.progress import Bar


@app.command("check", rich_help_panel=READING)
def check_command(
    slugs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SLUG]...",
            help="Papers, as [cyan]thalweg list[/cyan] calls them; or a claim's file.",
            show_default=False,
        ),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All claims that there are.")] = False,
    seam: Annotated[str | None, typer.Option(help="All claims of papers that act there.")] = None,
    scale: Annotated[
        str, typer.Option(help="smoke: seconds, shows that it runs; cpu: minutes; gpu: needs an accelerator.")
    ] = "cpu",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a crash or Ctrl-C; finished checks that still hold are kept.")
    ] = False,
    results: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of results, and of unfinished work.", show_default=True)
    ] = Path("results"),
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Rerun the experiment behind a paper's claim, and say whether it holds here.

    The verdict follows from the measured numbers by a rule that was written down before they were seen; both are printed.
    Numbers and figure go to [cyan]DIR/SLUG/SCALE.json[/cyan] and [cyan].svg[/cyan].

    [bold]Examples[/bold]

      thalweg check lion-k

      thalweg check deep-linear-dynamics lion-k --scale smoke

      thalweg check --all --resume      # whatever isn't there yet

      thalweg check my_claim.py         # one that you are writing
    """
    from thalweg.claims.engine.progress import Bar

    names = _names(slugs or [], all_, seam, scale)
    signal.signal(signal.SIGTERM, interrupt)
    bar, rows = Bar(), []
    with reserved_stdout() if json_ else contextlib.nullcontext():
        for name in _planned(names, scale, bool(slugs), bar):
            try:
                rows.append(_checked(name, scale, results, resume, bar, quiet=json_))
            except KeyboardInterrupt:
                place = "" if results == Path("results") else f" --results {shlex.quote(str(results))}"
                again = f"thalweg check {shlex.join(names)} --scale {scale}{place} --resume"
                fail(bar.farewell(again), 130)
            except Exception as error:
                rows.append({"slug": name, "scale": scale, "error": _told(error, debug)})
    if json_:
        print_json(rows)
    if any("error" in row for row in rows):
        raise typer.Exit(1)


def _names(slugs: list[str], every: bool, seam: str | None, scale: str) -> list[str]:
    """The claims that are meant, each once; all of them exist."""
    from thalweg.catalog.load import papers
    from thalweg.catalog.paper import SEAMS
    from thalweg.claims.engine import claim_file
    from thalweg.registry import unknown

    if scale not in ("smoke", "cpu", "gpu"):
        raise ValueError(unknown("scale", scale, ("smoke", "cpu", "gpu")))
    if seam is not None and seam not in SEAMS:
        raise ValueError(unknown("seam", seam, SEAMS))
    if bool(slugs) + every + (seam is not None) != 1:
        raise ValueError("say which claims to check: either their slugs, or --all, or --seam")
    if slugs:
        for slug in slugs:
            claim_file.find(slug)
        return list(dict.fromkeys(slugs))
    known = papers()
    found = [slug for slug in claim_file.slugs() if every or (slug in known and known[slug].seam == seam)]
    if not found:
        raise ValueError(f"there is no claim about {seam} yet; thalweg check --all runs those that there are")
    return found


def _planned(names: list[str], scale: str, named: bool, bar: Bar) -> list[str]:
    """Say how long several claims take together; of those that weren't named one by one, keep what has this scale."""
    from thalweg.claims.engine import ClaimError, load
    from thalweg.claims.engine.progress import about

    sizes = {}
    for name in names:
        with contextlib.suppress(ClaimError):  # said when its turn comes
            sizes[name] = load(name).claim.SCALES.get(scale)
    without = [] if named else [name for name in names if name in sizes and sizes[name] is None]
    if without:
        bar.note(f"without {scale} scale, left out: {', '.join(without)}")
    if len(names) - len(without) > 1:
        seconds = sum(size.seconds for size in sizes.values() if size)
        bar.note(f"{len(names) - len(without)} claims at {scale} scale: {about(seconds)} on two cores")
    return [name for name in names if name not in without]


def _checked(name: str, scale: str, results: Path, resume: bool, bar: Bar, quiet: bool) -> dict[str, Any]:
    """Check one claim, draw its figure, and print the verdict."""
    from thalweg.claims.engine import check, figure_path, load, result_path
    from thalweg.claims.engine.storage import plain_number, result_to_json, write_text
    from thalweg.report.claim_figure import draw

    result = check(name, scale, results=results, resume=resume, listener=bar)
    row = {key: value for key, value in result_to_json(result).items() if key != "measurements"}
    row["numbers"] = [{k: plain_number(v) for k, v in found.numbers.items()} for found in result.measurements]
    if not quiet:
        _show(result)
    if result.measurements:
        figure = figure_path(results, result.slug, scale)
        write_text(figure, draw(result, load(name).claim.PANELS))
        row |= {"result": str(result_path(results, result.slug, scale)), "figure": str(figure)}
        if not quiet:
            typer.echo(f"Numbers: {row['result']}\nFigure:  {row['figure']}")
    return row


def _show(result: Result) -> None:
    from rich.text import Text

    from thalweg.catalog.listing import STYLES

    verdict = result.verdict
    text = Text(f"\n{result.slug}: ", style="bold").append(verdict.word, style=f"bold {STYLES[verdict.word]}")
    if verdict.explained_by:
        text.append(f", but explained by {verdict.explained_by}", style="not bold yellow")
    text.append(f"\n{verdict.because}\n", style="not bold")
    text.append("\nThe rule, written before the numbers were seen:\n", style="not bold dim")
    text.append("".join(f"  {line}\n" for line in result.rule.strip().splitlines()), style="not bold dim")
    console().print(text, highlight=False)


def _told(error: Exception, debug: bool) -> str:
    """Say on standard error what went wrong with one claim; the others go on."""
    from thalweg.claims.engine import ClaimError
    from thalweg.tasks.fault import one_line

    expected = isinstance(error, ClaimError | ValueError)
    line = " ".join(str(error).split()) if expected else f"unexpected {one_line(error)}"
    hint = "" if debug else " (run again with --debug for the traceback)"
    if debug:
        print("".join(traceback.format_exception(error)).rstrip(), file=sys.stderr)
    print(f"error: {line}{'' if isinstance(error, ValueError) else hint}", file=sys.stderr, flush=True)
    return line
