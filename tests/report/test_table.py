import dataclasses

from rich.console import Console

from thalweg.race.records import RaceResult
from thalweg.report import race_table


def shown(result: RaceResult, width: int = 220) -> str:
    console = Console(width=width, color_system="truecolor", force_terminal=True)
    with console.capture() as capture:
        console.print(race_table(result))
    return capture.get()


def test_one_row_a_recipe(race: RaceResult) -> None:
    text = shown(race)
    for row in race.recipes:
        assert row.name in text
    assert "1 diverged" in text and "1 failed" in text and "3.22 MiB" in text and "11.0 ms" in text


def test_markup_and_terminal_codes_in_names_are_shown(race: RaceResult) -> None:
    rows = [dataclasses.replace(row) for row in race.recipes]
    rows[1].name = "[bold red]x[/]\x1b[2J"
    text = shown(dataclasses.replace(race, recipes=rows, task="[link=http://a]t[/link]"))
    assert "[bold red]x[/]�[2J" in text and "[link=http://a]t[/link]" in text and "\x1b[2J" not in text


def test_every_edge_case_prints(races: dict[str, RaceResult]) -> None:
    for result in races.values():
        assert shown(result, 80).count("\n") > len(result.recipes)
