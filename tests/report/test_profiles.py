"""The plot and the table of performance profiles."""

from __future__ import annotations

import io
import math

from rich.console import Console

from thalweg.race.profiles import Profile
from thalweg.report.figures import write_image
from thalweg.report.profiles import profile_curves, profile_table, steps_of

FOUND = [
    Profile("muon", {"mnist5k": 1.0, "docs-lm": 1.0}, 1.0, (0.9, 1.0)),
    Profile("lion[x]", {"mnist5k": 1.6, "docs-lm": math.inf}, 0.4, (0.31, 0.52)),
    *(Profile(f"rule {i}", {"mnist5k": 1.1 + i / 7, "docs-lm": 1.2 + i / 5}, 0.3) for i in range(22)),
]


def test_a_profile_rises_where_its_ratios_are():
    assert steps_of(FOUND[1], 4.0) == ([1.0, 1.6, 4.0], [0.0, 0.5, 0.5])
    assert steps_of(Profile("x", {"a": 5.0}, 0.0), 4.0) == ([1.0, 4.0], [0.0, 0.0])


def test_many_recipes_are_drawn_apart(tmp_path):
    plot = profile_curves(FOUND)
    lines = [line for line in plot.axes[0].lines if (line.get_gid() or "").startswith("r")]
    assert len(lines) == len(FOUND) and all(line.get_drawstyle() == "steps-post" for line in lines)
    assert len({(line.get_color(), str(line.get_linestyle()), line.get_marker()) for line in lines}) == len(FOUND)
    starts = {round(line.get_ydata()[0], 6) for line in lines if line.get_gid() != "r0"}
    assert len(starts) == len(FOUND) - 1, "lines lie upon each other"
    assert "muon: score 1.00, 100% of races within 4" in plot.description
    assert "within 1.60 times the best: 50% of races" in {point.text for point in plot.points}
    assert write_image(plot, tmp_path / "profile.png").stat().st_size > 10_000


def test_the_table_says_what_was_not_reached():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(profile_table(FOUND, "seconds"))
    text = console.export_text()
    assert "score over 2 races, by seconds to the target" in text
    assert "0.40 (0.31 to 0.52)" in text and "not reached" in text and "lion[x]" in text
