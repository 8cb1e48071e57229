import re
from pathlib import Path

import pytest

import thalweg.report
from thalweg.race.records import RaceResult
from thalweg.report.palette import SERIES, VARIABLES, mark, marks

STYLE = (Path(thalweg.report.__file__).parent / "templates" / "style.css").read_text()


def variables(css: str) -> dict[str, str]:
    return dict(re.findall(r"(--[\w-]+):\s*(#[0-9a-f]{6});", css))


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_style_sheet_has_the_same_light_colours() -> None:
    light = variables(STYLE.split("@media")[0])
    assert {name: light[name] for name in VARIABLES.values()} == {name: c for c, name in VARIABLES.items()}


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_can_be_seen(mode: int) -> None:
    colours = variables(STYLE.split("@media")[mode])
    for i in range(len(SERIES)):
        assert contrast(colours[f"--series-{i}"], colours["--paper"]) >= 3
    assert contrast(colours["--ink"], colours["--paper"]) >= 7
    for text, ground in (
        ("muted", "paper"),
        ("muted", "wash"),
        ("good", "good-wash"),
        ("bad", "bad-wash"),
        ("bad", "paper"),
    ):
        assert contrast(colours[f"--{text}"], colours[f"--{ground}"]) >= 4.5, (text, ground)


def test_dash_and_marker_tell_recipes_apart_without_colour() -> None:
    assert len({(mark(i).dashes, mark(i).marker) for i in range(40)}) == 40


def test_the_baseline_has_the_first_slot_wherever_it_stands(race: RaceResult) -> None:
    looks = marks(race)
    assert looks[race.baseline].index == 0
    assert sorted(look.index for look in looks.values()) == list(range(len(race.recipes)))
