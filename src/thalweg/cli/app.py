"""The application that all commands join, and the options that they share."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="thalweg",
    help=(
        "Which training method is faster on [bold]your[/bold] model? Race them against a tuned baseline. "
        "What do papers claim, and does it hold? Search the list, and rerun their claims."
    ),
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

RACES, READING = "Races", "Reading list"
"""What ``--help`` lists commands under."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from thalweg import __version__

        typer.echo(f"thalweg {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
