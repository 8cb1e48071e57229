"""The command about the site."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.app import READING, DebugOption, JsonOption, app
from thalweg.cli.output import print_json
from thalweg.cli.reading import ResultsOption


@app.command("site", rich_help_panel=READING)
def site_command(
    out: Annotated[Path, typer.Option(help="Folder of the site; an older site in it is replaced.")] = Path("site"),
    results: ResultsOption = None,
    runs: Annotated[Path, typer.Option(help="Folder of races, whose reports become part of the site.")] = Path("runs"),
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the reading list as static pages: papers, verdicts, findings, races, a feed.

    The pages need no server, no network and no JavaScript.

    [bold]Examples[/bold]

      thalweg site --out site --open

      thalweg site --out public --results my-results
    """
    from thalweg.catalog.load import papers
    from thalweg.catalog.status import results_folder
    from thalweg.claims.engine import load, slugs, stored_results
    from thalweg.report.numbers import duration
    from thalweg.report.numbers import size as written
    from thalweg.report.site import Check, build, find_races
    from thalweg.report.text import count

    folder = results_folder(results)
    if results is not None and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder of results; thalweg check makes one")
    checks = [Check(result, load(result.slug).claim.PANELS) for result in stored_results(folder)]
    built = build(out, papers(), checks, find_races([folder / "races", runs]), slugs())
    index = (built.out / "index.html").resolve()
    if json_:
        counts = {"papers": built.papers, "verdicts": built.verdicts, "races": built.races, "pages": built.pages}
        print_json({"site": str(index), **counts, "bytes": built.size, "seconds": built.seconds})
    else:
        shown = ", ".join(
            count(*pair) for pair in ((built.papers, "paper"), (built.verdicts, "verdict"), (built.races, "race"))
        )
        typer.echo(
            f"Site: {index} ({shown}; {count(built.pages, 'page')}, {written(built.size)}, {duration(built.seconds)})"
        )
    if open_ and not webbrowser.open(index.as_uri()):
        typer.echo("No browser could be started; open the file yourself.", err=True)
