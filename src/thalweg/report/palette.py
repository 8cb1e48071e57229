"""How the report tells recipes apart: colour, dash and marker, so that it also reads in black and white.

The values are those of the light mode. ``templates/style.css`` names the same colours as CSS variables and has others for the
dark mode; the SVG writer replaces each value by its variable.
"""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.race.records import RaceResult

INK, MUTED, GRID, PAPER = "#1b2430", "#5a6675", "#dde3ea", "#fefefe"
SERIES = ("#3a4454", "#0b6fb8", "#cf4f08", "#0a8560", "#b0478f", "#9a6f00", "#2c88ad", "#8a5742")
"""The baseline's, then the others', in turn: darker relatives of Okabe and Ito's colours, at least 3:1 on white."""

VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{i}" for i, colour in enumerate(SERIES)
}

_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2.5), (1.5, 2), (7, 2, 1.5, 2), (3, 1.5))
_MARKERS = {
    "o": "M5 1.5A3.5 3.5 0 1 1 5 8.5A3.5 3.5 0 1 1 5 1.5Z",
    "s": "M2 2H8V8H2Z",
    "^": "M5 1L9 8.5H1Z",
    "D": "M5 .8L9.2 5L5 9.2L.8 5Z",
    "v": "M5 9L9 1.5H1Z",
    "P": "M3.7 1H6.3V3.7H9V6.3H6.3V9H3.7V6.3H1V3.7H3.7Z",
    "X": "M1.2 3L3 1.2L5 3.2L7 1.2L8.8 3L6.8 5L8.8 7L7 8.8L5 6.8L3 8.8L1.2 7L3.2 5Z",
    "<": "M1 5L8.5 1V9Z",
    ">": "M9 5L1.5 1V9Z",
}
"""matplotlib's markers and the same as a path in a 10 x 10 box, for the legend of the page."""


@dataclass(frozen=True)
class Mark:
    """The look of one recipe, or of one curve."""

    index: int
    colour: str
    dashes: tuple[float, ...]
    marker: str
    hollow: bool = False

    @property
    def linestyle(self) -> tuple[float, tuple[float, ...]] | str:
        """The dash pattern as matplotlib takes it."""
        return (0, self.dashes) if self.dashes else "solid"

    @property
    def variable(self) -> str:
        """The CSS variable of the colour."""
        return VARIABLES[self.colour]

    @property
    def dasharray(self) -> str:
        """The dash pattern as SVG takes it."""
        return " ".join(f"{length:g}" for length in self.dashes) or "none"

    @property
    def path(self) -> str:
        """The marker as an SVG path in a 10 x 10 box."""
        return _MARKERS[self.marker]


def mark(index: int) -> Mark:
    """The look of slot ``index``; 0 is the baseline's. Dash and marker together differ for the first 45 slots."""
    colour = SERIES[0] if index == 0 else SERIES[1 + (index - 1) % (len(SERIES) - 1)]
    markers = list(_MARKERS)
    return Mark(index, colour, _DASHES[index % len(_DASHES)], markers[index % len(markers)])


def marks(result: RaceResult) -> dict[str, Mark]:
    """The look of every recipe: the baseline first, the others in the order of the race."""
    names = [row.name for row in result.recipes]
    ordered = sorted(names, key=lambda name: name != result.baseline)
    return {name: mark(i) for i, name in enumerate(ordered)}
